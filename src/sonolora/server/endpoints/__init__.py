"""What the server offers on the wire: the endpoints of both apps, as data."""
