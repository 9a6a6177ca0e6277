"""What customers are told by e-mail: one message for each fact that is final, sent once."""
