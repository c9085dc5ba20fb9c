"""A module beside the program."""


def joined(words):
    return " ".join(words)
