"""What is done with an item."""


def run(item):
    return {"letters": sum(letter.isalpha() for letter in item)}
