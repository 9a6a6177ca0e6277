"""Agencies and their people."""

import factory

from tenants.models import Agency, Member
from tests.factories.building import RowFactory


class AgencyFactory(RowFactory):
    class Meta:
        model = Agency

    slug = factory.Sequence(lambda n: f"agency-{n}")
    name = factory.LazyAttribute(lambda it: it.slug.title())


class MemberFactory(RowFactory):
    """A person of the operator's finance; `role=` makes another."""

    class Meta:
        model = Member

    role = "finance"
    email = factory.Sequence(lambda n: f"person-{n}@operator.example")
