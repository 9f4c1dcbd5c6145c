"""What MUPDATE (RFC 3656) and ManageSieve (RFC 5804) share on the wire: messages, tokens, SASL exchange items.

Rule: pure.  Bytes in, values out; no socket, no clock, and of no command's meaning anything is known here.
"""
