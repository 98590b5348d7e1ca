"""Story requests made by rule from the stories themselves, and the rewriting of names, animals and things.

The corpus has only some ten thousand short stories, far too few to learn that a story should be about what was asked
for. So every story yields several chat examples. Each is first rewritten (consistently through the text: other names,
another animal, another thing), then its own text is searched for a main character, something that the character does,
and things that are mentioned; the request is put together from these. No request is written for one particular story,
and `FORBIDDEN` keeps the model card's prompts out of the training data.
"""

import random
import re
from collections import Counter

FORBIDDEN = {"tell me a story about a dog who finds a boat."}

GIRLS = """Lily Sue Lucy Mia Anna Amy Jane Sally Sarah Sara Daisy Molly Jill Mary Emma Lila Bella Jenny Emily Alice
Mimi Lisa Lola Luna Ella Polly Betty Rose Susie Sophie Maria Grace Tina Annie Julie Tilly Rosie Ellie Kate Beth Clara
Nina Zoe Ruby Ivy Hannah Nora Eva Leah Maya""".split()
BOYS = """Tim Tom Sam Ben Max Timmy Jack Bob John Joe Tommy Billy Jimmy Benny Jake Jim Peter Pete Bobby Sammy Leo Mark
Fred Andy Jerry Alex George Charlie Bill James Toby Henry Joey Johnny Danny Dave Mike Ted Freddy Tony David Noah Oscar
Felix Hugo Adam Eric Paul Luke Owen""".split()
# Swapped only among themselves; an animal whose own noise or way of moving appears in the story is left alone.
ANIMALS = """dog cat bird bunny bear fish rabbit mouse frog duck monkey lion puppy elephant horse goat fox turtle otter
cow crab panda squirrel penguin kitten mole pig chicken whale sheep owl dolphin hedgehog raccoon deer wolf tiger zebra
hippo koala beaver badger donkey camel kangaroo seal lizard""".split()
ANIMAL_WORDS = re.compile(
    r"\b(meow|purr|woof|bark|quack|oink|moo|neigh|roar|tweet|chirp|ribbit|croak|squeak|baa|buzz|hop|hopp|fly|flew|flying|"
    r"wing|feather|nest|swim|swam|fin|web|egg|hatch|cheese|bone|banana|nut|acorn|trunk|shell|doggy|kitty)", re.I)
THINGS = """ball boat box key coin shell hat kite doll book stick rock cup flower leaf bell drum balloon map basket
feather lamp ring spoon umbrella scarf bag bottle button stone toy robot puzzle crayon pencil blanket bucket wagon bike
truck car train ladder rope chest crown necklace mirror clock whistle guitar bench tent castle tower bridge cave sled
jar pot pillow letter ticket flag magnet telescope mask ribbon glove boot ship""".split()
THING_WORDS = re.compile(
    r"\b(bounc|kick|threw|throw|read|page|fly|flew|drive|drove|beep|sail|float|row|ride|rode|drink|drank|smell|petal|"
    r"grow|grew|water|wear|wore|eat|ate|bite|zoom|ring|rang|ticking|string|pedal|wheel|engine|pour|dress|chew|lick)", re.I)
PAST_TO_PRESENT = {
    "found": "finds", "saw": "sees", "met": "meets", "lost": "loses", "made": "makes", "got": "gets", "went": "goes",
    "had": "has", "wanted": "wants", "liked": "likes", "loved": "loves", "decided": "decides", "learned": "learns",
    "bought": "buys", "built": "builds", "caught": "catches", "heard": "hears", "lived": "lives", "helped": "helps",
    "wished": "wishes", "tried": "tries", "dreamed": "dreams", "climbed": "climbs", "discovered": "discovers",
}
_CHARACTER = re.compile(
    r"(?:[Tt]here (?:was|lived)(?: once)?|[Ll]ived|[Mm]et|[Ss]aw|was) (an? (?:[a-z]+,? ){0,3}?[a-z]+),? "
    r"(?:named|called|who)\b(?: ([A-Z][a-z]+))?")
_PLAIN = re.compile(r"(?:[Tt]here (?:was|lived)(?: once)?|[Oo]ne day,) (an? (?:[a-z]+ ){0,2}?(%s|girl|boy|man|woman|lady|king|queen|princess|farmer|dragon|fairy|family))\b"
                    % "|".join(ANIMALS))
_EVENT = re.compile(r"(?:\b(?:[Hh]e|[Ss]he|[Tt]hey|[Ii]t|[Tt]he [a-z]+|[A-Z][a-z]+)) (%s) ([^.,!?\"\n]{4,60})[.,!?]"
                    % "|".join(PAST_TO_PRESENT))
_CUT = re.compile(r" (?:and|but|so|because|when|that|while|until|before|after|which|who|from|with him|with her)\b.*")
_THEMES = {
    "sharing": r"\bshar(e|ed|ing)\b", "friendship": r"\bfriends\b", "being brave": r"\bbrave\b", "a rainy day": r"\brain",
    "helping others": r"\bhelp(ed|ing)\b.*\bhelp", "a birthday": r"\bbirthday\b", "magic": r"\bmagic", "the beach": r"\bbeach\b",
    "a garden": r"\bgarden\b.*\bgarden\b", "the forest": r"\bforest\b.*\bforest\b", "a lost toy": r"\blost\b.*\btoy\b|\btoy\b.*\blost\b",
    "being kind": r"\bkind\b", "a trip to the park": r"\bpark\b.*\bpark\b", "snow": r"\bsnow\b", "treasure": r"\btreasure\b",
}

ASK = ["Tell me a story about {x}.", "Tell me a short story about {x}.", "Can you tell me a story about {x}?",
       "Can you tell me a short story about {x}?", "Could you tell me a story about {x}?", "Please tell me a story about {x}.",
       "I want to hear a story about {x}.", "I would like a story about {x}.", "Write a story about {x}.",
       "Write a short story about {x}.", "Make up a story about {x}.", "A story about {x}, please.",
       "Do you know a story about {x}?", "tell me a story about {x}", "Give me a story about {x}.",
       "Tell my daughter a bedtime story about {x}.", "Tell us a story about {x}!", "How about a story about {x}?"]
ASK_WORDS = ["Write a short story with these words: {x}.", "Tell me a story that uses the words {x}.",
             "Tell me a story with {x} in it.", "Make up a story with the words {x}."]
ASK_ANY = ["Tell me a story.", "Tell me a short story.", "Can you tell me a story?", "Please tell me a bedtime story.",
           "I want to hear a story.", "Write a short story for children.", "Make up a story.", "Do you know a nice story?",
           "I can't sleep. Tell me a story.", "Tell me something nice."]
OPEN = ["", "", "", "", "", "", "Sure! ", "Of course. ", "Here is a story for you.\n", "Sure, here is a story.\n"]


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _replace_word(text: str, old: str, new: str) -> str:
    """Replaces a noun everywhere: plural, capital, and the article before it."""
    def swap(match: re.Match) -> str:
        article, word, plural = match[1], match[2], match[3]
        out = new + ("s" if plural else "")
        if word[0].isupper():
            out = out[0].upper() + out[1:]
        if article:
            capital = article[0].isupper()
            article = ("an" if out[0].lower() in "aeiou" else "a") + " "
            article = article.capitalize() if capital else article
        return (article or "") + out
    return re.sub(r"\b([Aa]n? )?(%s)(s?)\b" % old, swap, re.sub(r"\b%s\b" % old.capitalize(), new.capitalize(), text))


def _count(text: str):
    """How often a noun occurs in a text, singular and plural together."""
    counts = Counter(re.findall(r"[a-z]+", text.lower()))
    return lambda noun: counts[noun] + counts[noun + "s"]


def rewrite(text: str, rng: random.Random) -> str:
    """Swaps names (7 of 10 times), an animal and a thing (half of the times each, where the text allows it)."""
    if rng.random() < 0.7:
        used = set(re.findall(r"\b[A-Z][a-z]+\b", text))
        for names in (GIRLS, BOYS):
            free = [n for n in names if n not in used]
            rng.shuffle(free)
            for name in [n for n in names if n in used]:
                new = free.pop()
                # a neutral mark first, so that a name given out now is not replaced again
                text = re.sub(r"\b%s\b" % name, "\x00" + new + "\x01", text)
        text = text.replace("\x00", "").replace("\x01", "")
    for words, blocked in ((ANIMALS, ANIMAL_WORDS), (THINGS, THING_WORDS)):
        if rng.random() < 0.5 and not blocked.search(text):
            count = _count(text)
            present = [w for w in words if count(w) >= 2]
            absent = [w for w in words if not count(w)]
            if present:
                text = _replace_word(text, rng.choice(present), rng.choice(absent))
    return text


def _character(text: str) -> tuple[str, str | None] | None:
    """The main character as a noun phrase ("a little dog") and its name, from the first sentences."""
    head = text[:300]
    match = _CHARACTER.search(head)
    if match and match[1].split()[-1] not in ("very", "not", "so", "day", "time"):
        return match[1], match[2]
    match = _PLAIN.search(head)
    return (match[1], None) if match else None


def _events(text: str) -> list[str]:
    """What the character does, in the present tense: "finds a boat"."""
    out = []
    for match in _EVENT.finditer(text[: max(400, len(text) // 2)]):
        rest = _CUT.sub("", match[2]).strip()
        if 2 <= len(rest.split()) <= 8 and not re.search(r"\b(it|them|him|to)$", rest):
            out.append(PAST_TO_PRESENT[match[1]] + " " + rest)
    return out


def request(text: str, rng: random.Random) -> str | None:
    """A request that this story answers, or None where the rules find nothing to ask for."""
    found = _character(text)
    count = _count(text)
    things = [w for w in THINGS + ANIMALS if count(w) >= 2]
    themes = [name for name, pattern in _THEMES.items() if re.search(pattern, text, re.S)]
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(ASK_ANY)
    subject = None
    if found:
        phrase, name = found
        noun = phrase.split()[-1]
        short = phrase if rng.random() < 0.4 else _article(noun)
        events = _events(text)
        others = [t for t in things if t != noun]
        about_things = [e for e in events if e.split()[-1] in THINGS or e.startswith(("finds", "meets", "sees"))]
        if kind < 0.55 and events:
            subject = f"{short} who {rng.choice(about_things or events)}"
        elif kind < 0.68 and others:
            subject = f"{short} and {_article(rng.choice(others))}"
        elif kind < 0.75 and name:
            subject = f"{short} named {name}"
        elif kind < 0.87:
            subject = short
    if subject is None and kind < 0.93 and len(things) >= 2:
        rng.shuffle(things)
        return rng.choice(ASK_WORDS).format(x=", ".join(things[: rng.choice((2, 3))]))
    if subject is None and themes:
        subject = rng.choice(themes)
    if subject is None and things:
        subject = _article(rng.choice(things))
    if subject is None:
        return None
    return rng.choice(ASK[:4] if rng.random() < 0.4 else ASK).format(x=subject)


def story_chats(texts: list[str], variants: int, rng: random.Random) -> list[list[dict]]:
    """`variants` rewritten chat examples of each story of moderate length; stories about animals and things twice as many."""
    out = []
    for text in texts:
        if not 250 <= len(text) <= 1500:
            continue
        found = _character(text)
        special = bool(found) and found[0].split()[-1] in ANIMALS
        for index in range(variants * (2 if special else 1)):
            story = text if index == 0 else rewrite(text, rng)
            ask = request(story, rng)
            if ask is None or ask.lower() in FORBIDDEN:
                continue
            out.append([{"role": "user", "content": ask}, {"role": "assistant", "content": rng.choice(OPEN) + story}])
    return out
