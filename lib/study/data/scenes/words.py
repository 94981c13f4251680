"""The words of the scenes: names and synonyms of what is drawn, of places and of numbers."""

from __future__ import annotations

# The first word of each entry is the canonical name; the others are synonyms.
SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
    "moon": ("moon", "crescent"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black",),
}
SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium",),
    "large": ("large", "big"),
}
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "plain": ("a plain background", "a plain wall", "an empty background"),
    "gradient": ("a smooth background", "a softly shaded wall", "a smooth surface"),
    "grain": ("a grainy surface", "a sandy surface", "sand"),
    "stripes": ("a striped background", "stripes", "a striped cloth"),
    "tiles": ("a checkered floor", "a tiled floor", "tiles"),
    "dots": ("a dotted background", "a spotted cloth", "a dotted wallpaper"),
    "bricks": ("a brick wall", "bricks", "a wall of bricks"),
    "wood": ("a wooden table", "wood", "a wooden board"),
    "field": ("a field under the sky", "grass below a clear sky", "a meadow and the sky"),
    "flower": ("a photo of a flower", "a flower picture", "a picture of petals"),
    "palace": ("a photo of a palace", "a picture of a palace", "an old building"),
}
PLACES: dict[tuple[int, int], str] = {
    (-1, -1): "in the top left corner",
    (0, -1): "at the top",
    (1, -1): "in the top right corner",
    (-1, 0): "on the left",
    (0, 0): "in the middle",
    (1, 0): "on the right",
    (-1, 1): "in the bottom left corner",
    (0, 1): "at the bottom",
    (1, 1): "in the bottom right corner",
}

COUNTS = {2: ("two", "two", "two", "a pair of"), 3: ("three", "three", "three", "a trio of")}
NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "single": 1,
    "the": 1,
    "another": 1,
    "two": 2,
    "pair": 2,
    "both": 2,
    "couple": 2,
    "three": 3,
    "trio": 3,
    "four": 4,
    "five": 5,
    "six": 6,
}
SHAPE_OF = {word: name for name, words in SHAPES.items() for word in words}
SHAPE_OF |= {
    "disk": "circle",
    "dot": "circle",
    "plus sign": "cross",
    "donut": "ring",
    "lozenge": "diamond",
    "block": "square",
}
PLURALS = {
    "boxes": "square",
    "crosses": "cross",
    "pluses": "cross",
    "rhombuses": "diamond",
    "rhombi": "diamond",
}
COLOUR_OF = {word: name for name, words in COLOURS.items() for word in words}
COLOUR_OF |= {"crimson": "red", "gold": "yellow", "navy": "blue", "lime": "green"}
FILLERS = {word for words in SIZES.values() for word in words}
FILLERS |= {"sized", "bright", "dark", "huge", "medium-sized", "of", "very", "solid"}
LINKS = {"in", "that", "which", "is", "are", "coloured", "colored", "painted"}
