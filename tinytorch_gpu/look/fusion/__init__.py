"""`look.fusion(...)`: what could run as one operator, what it would move and take less, and what it really gains."""
