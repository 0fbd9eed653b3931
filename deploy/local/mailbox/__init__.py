"""A mailbox for trying the shop out: real SMTP in, a page and a small API out."""
