"""The page for people: the admin address in a browser, with the same data and the same actions."""
