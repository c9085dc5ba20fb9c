"""A module of the plugin's own."""


def bound(text):
    return text + "\n"
