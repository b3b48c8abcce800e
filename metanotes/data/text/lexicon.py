"""The words of the small grammar: ten topics have agents, verbs, objects, ... of their own."""

from __future__ import annotations

#: What a topic has, in the order in which `TOPICS` lists it.
CLASSES = ("agents", "verbs", "objects", "adjectives", "places")

TOPICS = {
    "kitchen": (
        "cook baker waiter grandmother guest",
        "cut boiled tasted baked served",
        "bread soup cheese cake onion fish",
        "warm fresh sweet burnt salty",
        "kitchen restaurant cellar",
    ),
    "farm": (
        "farmer shepherd horse goat gardener",
        "planted fed watered harvested dug",
        "wheat cabbage hay pig potato egg",
        "ripe muddy rotten heavy yellow",
        "barn field orchard",
    ),
    "school": (
        "teacher pupil professor student librarian",
        "read wrote copied learned explained",
        "book letter poem lesson sum story",
        "difficult boring short famous clever",
        "school library classroom",
    ),
    "sea": (
        "sailor captain fisherman pirate swimmer",
        "caught rowed steered sank sighted",
        "boat whale net anchor shark island",
        "wet deep wooden distant blue",
        "harbour beach lighthouse",
    ),
    "hospital": (
        "doctor nurse patient surgeon dentist",
        "healed examined washed bandaged weighed",
        "wound tooth child leg bottle needle",
        "sore broken clean painful tiny",
        "hospital clinic ward",
    ),
    "market": (
        "merchant customer thief tailor jeweller",
        "sold bought stole counted wrapped",
        "coat ring carpet coin hat basket",
        "cheap golden expensive silk round",
        "market shop bank",
    ),
    "castle": (
        "king queen knight soldier prince",
        "defended attacked ruled conquered betrayed",
        "sword crown kingdom dragon enemy army",
        "mighty rusty royal cruel ancient",
        "tower palace bridge",
    ),
    "music": (
        "singer drummer pianist dancer composer",
        "played sang tuned heard recorded",
        "song drum violin piano waltz trumpet",
        "loud slow cheerful sad modern",
        "theatre studio hall",
    ),
    "forest": (
        "hunter wolf bear fox woodcutter",
        "chased shot tracked ate frightened",
        "rabbit deer mushroom tree squirrel berry",
        "wild green hidden poisonous thick",
        "forest cave valley",
    ),
    "workshop": (
        "carpenter smith mechanic engineer painter",
        "repaired built painted hammered measured",
        "wheel chair clock engine table ladder",
        "new oily solid crooked iron",
        "workshop garage factory",
    ),
}

#: Words that every topic uses: of agents, of any noun, of a place, and of the whole sentence.
SHARED = {
    "qualities": "old young tall hungry lazy brave kind angry tired rich",
    "articles": "the a this my every no",
    "prepositions": "in near behind outside",
    "times": "yesterday today often never again slowly",
}

#: The words of each class, topic by topic, as many of each.
LEXICON: dict[str, tuple[str, ...]] = {
    name: tuple(word for topic in TOPICS.values() for word in topic[place].split())
    for place, name in enumerate(CLASSES)
} | {name: tuple(words.split()) for name, words in SHARED.items()}
