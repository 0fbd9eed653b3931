"""A mailbox for every address: real SMTP in, a page and a small API out. It sends nothing on."""
