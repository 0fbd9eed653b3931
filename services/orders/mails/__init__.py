"""Mails about orders by SMTP: queued in the transaction of what they tell of, sent afterwards.

mail.py     one mail that is due, with what it tells of, and the rows behind it
letters.py  what each kind says: receipt, shipped, refund:<id>; and downloads, of the version before
layout.py   how a letter looks, as text and as HTML
message.py  the bytes that SMTP takes
mailer.py   who sends it, over which connection, and what happens when that fails
"""
