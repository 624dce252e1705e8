"""The local page of `davss serve`: recordings in, voices out, in a browser."""
