"""HTTP answers within bounds: `requests` alone reads whatever comes, for as long as a byte comes now and then."""

import time
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

MOST_BYTES: Final = 8_388_608
"""Of one answer, unpacked. A page of a hundred long invoices has some 3 MB."""
WHOLE_WITHIN: Final = 60.0
"""Seconds from the first byte to the last."""
_AT_ONCE: Final = 65_536


class BoundedAdapter(HTTPAdapter):
    """Reads each answer to its end before it hands it on. Raises `requests.Timeout` for one that comes too slowly, and
    `requests.exceptions.ContentDecodingError` for one that is too long."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        response = super().send(request, *args, **{**more, "stream": True})
        try:
            response._content = _whole(response.raw)
        except BaseException:
            response.close()
            raise
        response._content_consumed = True  # type: ignore[attr-defined]
        return response


def _whole(raw: Any) -> bytes:
    until, parts, size = time.monotonic() + WHOLE_WITHIN, [], 0
    try:
        while part := raw.read1(_AT_ONCE, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise requests.exceptions.ContentDecodingError("the answer is too long")
            if time.monotonic() > until:
                raise requests.ReadTimeout("the answer comes too slowly")
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except HTTPError as error:
        raise requests.ConnectionError(error) from error
    return b"".join(parts)
