"""Makes story requests from the stories themselves by rules, and rewrites names, animals and things.

The corpus has only some ten thousand short stories, far too few to learn that a story should be about what was asked
for. So every story yields several chat examples. Each is first rewritten (consistently throughout the text: other names,
another animal, another thing). Then its text is searched for a main character, something that the character does, and
things that are mentioned; the request is composed from these. No request is written for one particular story, and
`FORBIDDEN` keeps the model card's prompts out of the training data.
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
ANIMALS = """dog cat bird bunny bear fish rabbit mouse frog duck monkey lion puppy elephant horse goat fox turtle otter
cow crab panda squirrel penguin kitten mole pig chicken whale sheep owl dolphin hedgehog raccoon deer wolf tiger zebra
hippo koala beaver badger donkey camel kangaroo seal lizard snail bee butterfly ant dragon dinosaur giraffe parrot""".split()
PEOPLE = "girl boy man woman lady".split()
# An animal whose own noise or way of moving appears in the story is not replaced.
ANIMAL_WORDS = re.compile(
    r"\b(meow|purr|woof|bark|quack|oink|moo|neigh|roar|tweet|chirp|ribbit|croak|squeak|baa|buzz|fly|flew|flying|"
    r"wing|feather|nest|swim|swam|fin|web|egg|hatch|trunk|doggy|kitty|puppies|kittens|long neck|stripe|hump|mane|horn|shell)",
    re.I,
)
# Groups of things with similar roles in a story; mostly a thing is swapped for one of its own group.
GROUPS = [
    g.split()
    for g in (
        "ball doll toy robot kite balloon puzzle drum whistle guitar wagon sled",
        "boat ship car truck train bike bus wagon sled plane rocket",
        "box bag basket jar chest bottle bucket pot cup bowl",
        "hat scarf crown necklace ring glove mask coat dress shirt ribbon boot",
        "rock stone shell flower leaf stick feather mushroom pebble tree seed",
        "apple banana cake cookie pie carrot sandwich pizza orange peach pear muffin",
        "castle cave tower bridge tent pond lake river hill garden barn island",
        "key lamp map mirror clock book pencil crayon brush spoon umbrella blanket pillow letter telescope magnet coin bell rope ladder button flag",
    )
]
THINGS = sorted({t for g in GROUPS for t in g})
# If a story contains one of these words, a thing is only swapped for one of its own group.
THING_WORDS = re.compile(
    r"\b(bounc|kick|threw|throw|roll|read|page|drive|drove|beep|sail|float|row|ride|rode|drink|drank|smell|petal|grow|grew|"
    r"wear|wore|eat|ate|bite|chew|lick|taste|delicious|yummy|zoom|rang|string|pedal|wheel|engine|pour|open|squeez)",
    re.I,
)
_FOUND = r"\b(?:found|saw|find|sees?|spotted|noticed|got|bought) an? (?:[a-z]+,? ){0,3}?%s\b"
PAST_TO_PRESENT = {
    "found": "finds",
    "saw": "sees",
    "met": "meets",
    "lost": "loses",
    "made": "makes",
    "got": "gets",
    "went": "goes",
    "had": "has",
    "wanted": "wants",
    "liked": "likes",
    "loved": "loves",
    "decided": "decides",
    "learned": "learns",
    "bought": "buys",
    "built": "builds",
    "caught": "catches",
    "heard": "hears",
    "lived": "lives",
    "helped": "helps",
    "wished": "wishes",
    "tried": "tries",
    "dreamed": "dreams",
    "climbed": "climbs",
    "discovered": "discovers",
}
_CHARACTER = re.compile(
    r"(?:[Tt]here (?:was|lived)(?: once)?|[Ll]ived|[Mm]et|[Ss]aw|was) (an? (?:[a-z]+,? ){0,3}?[a-z]+),? "
    r"(?:named|called|who)\b(?: ([A-Z][a-z]+))?"
)
_PLAIN = re.compile(
    r"(?:[Tt]here (?:was|lived)(?: once)?|[Oo]ne day,) (an? (?:[a-z]+ ){0,2}?(%s|girl|boy|man|woman|lady|king|queen|princess|farmer|dragon|fairy|family))\b"
    % "|".join(ANIMALS)
)
_EVENT = re.compile(
    r"(?:\b(?:[Hh]e|[Ss]he|[Tt]hey|[Ii]t|[Tt]he [a-z]+|[A-Z][a-z]+)) (%s) ([^.,!?\"\n]{4,60})[.,!?]" % "|".join(PAST_TO_PRESENT)
)
_CUT = re.compile(r" (?:and|but|so|because|when|that|while|until|before|after|which|who|from|with him|with her)\b.*")
_THEMES = {
    "sharing": r"\bshar(e|ed|ing)\b",
    "friendship": r"\bfriends\b",
    "being brave": r"\bbrave\b",
    "a rainy day": r"\brain",
    "helping others": r"\bhelp(ed|ing)\b.*\bhelp",
    "a birthday": r"\bbirthday\b",
    "magic": r"\bmagic",
    "the beach": r"\bbeach\b",
    "a garden": r"\bgarden\b.*\bgarden\b",
    "the forest": r"\bforest\b.*\bforest\b",
    "a lost toy": r"\blost\b.*\btoy\b|\btoy\b.*\blost\b",
    "being kind": r"\bkind\b",
    "a trip to the park": r"\bpark\b.*\bpark\b",
    "snow": r"\bsnow\b",
    "treasure": r"\btreasure\b",
}

ASK = [
    "Tell me a story about {x}.",
    "Tell me a short story about {x}.",
    "Can you tell me a story about {x}?",
    "Can you tell me a short story about {x}?",
    "Could you tell me a story about {x}?",
    "Please tell me a story about {x}.",
    "I want to hear a story about {x}.",
    "I would like a story about {x}.",
    "Write a story about {x}.",
    "Write a short story about {x}.",
    "Make up a story about {x}.",
    "A story about {x}, please.",
    "Do you know a story about {x}?",
    "tell me a story about {x}",
    "Give me a story about {x}.",
    "Tell my daughter a bedtime story about {x}.",
    "Tell us a story about {x}!",
    "How about a story about {x}?",
]
ASK_WORDS = [
    "Write a short story with these words: {x}.",
    "Tell me a story that uses the words {x}.",
    "Tell me a story with {x} in it.",
    "Make up a story with the words {x}.",
]
ASK_ANY = [
    "Tell me a story.",
    "Tell me a short story.",
    "Can you tell me a story?",
    "Please tell me a bedtime story.",
    "I want to hear a story.",
    "Write a short story for children.",
    "Make up a story.",
    "Do you know a nice story?",
    "I can't sleep. Tell me a story.",
    "Tell me something nice.",
]
OPEN = ["", "", "", "", "", "", "Sure! ", "Of course. ", "Here is a story for you.\n", "Sure, here is a story.\n"]


NOUNS: set[str] = set()  # what a request may mention besides THINGS and ANIMALS; filled by `learn_nouns`
_NOT_CONCRETE = set(
    """day time lot while bit moment way idea friend place thing things end story name mom dad mommy daddy mum mama papa
girl boy man woman lady child person kid family one lesson smile laugh hug kiss minute hour week year night morning afternoon
evening top bottom side middle rest ground floor air head hand face eye mouth hair arm leg foot nose back sky house home room
door while second walk look voice sound noise job plan deal try mistake world while corner edge half all others other same
first next best front inside outside problem question answer part piece kind sort group pair line distance chance difference ending breath
faces fastest rules truth sudden urge power size sight minutes moments future war gun weapon homes task meeting view team spot street road""".split()
)


def learn_nouns(texts: list[str]) -> None:
    """Collects concrete nouns: words that mostly follow an article or possessive and aren't followed by another noun."""
    all_, after, ending = Counter(), Counter(), Counter()
    for text in texts:
        all_.update(re.findall(r"\b[a-z]{3,}\b", text))
        for word, stop in re.findall(
            r"\b(?:an?|the|his|her|their) (?:[a-z]+ )?([a-z]{3,})\b([.,!?]| (?:and|in|on|with|to|was|that|of|for|from|at|is)\b)?",
            text,
        ):
            after[word] += 1
            ending[word] += bool(stop)
    NOUNS.update(
        w for w, n in after.items() if n >= 25 and n >= 0.5 * all_[w] and ending[w] >= 0.62 * n and w not in _NOT_CONCRETE
    )


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


def _swap_names(text: str, rng: random.Random) -> str:
    used = set(re.findall(r"\b[A-Z][a-z]+\b", text))
    for names in (GIRLS, BOYS):
        free = [n for n in names if n not in used]
        rng.shuffle(free)
        for name in [n for n in names if n in used]:
            # a neutral mark first, so that a new name isn't replaced again
            text = re.sub(r"\b%s\b" % name, "\x00" + free.pop() + "\x01", text)
    return text.replace("\x00", "").replace("\x01", "")


def rewrite(text: str, rng: random.Random) -> str:
    """Swaps names, the main character's kind, another animal, and up to two things, each with some probability.

    A person may become an animal, too: the language of the corpus hardly distinguishes them. A thing is swapped for one
    of its own group, or for any thing where the story only finds or sees it.
    """
    if rng.random() < 0.85:
        text = _swap_names(text, rng)
    count = _count(text)
    found = _character(text)
    noun = found[0].split()[-1] if found else None
    absent = [w for w in ANIMALS if not count(w)]
    if noun in PEOPLE and count(noun) <= 4 and rng.random() < 0.5:
        text = _replace_word(text, noun, rng.choice(absent))
    elif noun in ANIMALS and not ANIMAL_WORDS.search(text) and rng.random() < 0.8:
        text = _replace_word(text, noun, rng.choice(absent))
    others = [w for w in ANIMALS if count(w) >= 2 and w != noun]
    if others and not ANIMAL_WORDS.search(text) and rng.random() < 0.6:
        count = _count(text)
        text = _replace_word(text, rng.choice(others), rng.choice([w for w in ANIMALS if not count(w)]))
    present = [w for w in THINGS if count(w) >= 2]
    rng.shuffle(present)
    for thing in present[:2]:
        if rng.random() < 0.75:
            count = _count(text)
            anything = re.search(_FOUND % thing, text) and not THING_WORDS.search(text)
            choice = THINGS if anything else rng.choice([g for g in GROUPS if thing in g])
            choice = [w for w in choice if not count(w)]
            if choice:
                text = _replace_word(text, thing, rng.choice(choice))
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
    """A request that this story answers, or None if the rules find nothing to ask for."""
    found = _character(text)
    count = _count(text)
    things = [w for w in sorted(NOUNS | set(THINGS) | set(ANIMALS)) if count(w) >= 2]
    themes = [name for name, pattern in _THEMES.items() if re.search(pattern, text, re.S)]
    kind = rng.random()
    if kind < 0.04:
        return rng.choice(ASK_ANY)
    subject = None
    if found:
        phrase, name = found
        noun = phrase.split()[-1]
        short = phrase if rng.random() < 0.3 else _article(noun)
        events = _events(text)
        pointed = [e for e in events if e.split()[-1] in things]
        others = [t for t in things if t != noun]
        if kind < 0.55 and pointed:
            subject = f"{short} who {rng.choice(pointed)}"
        elif kind < 0.65 and others and rng.random() < 0.3:
            subject = f"{short} who {rng.choice(['finds', 'sees', 'has', 'likes', 'wants'])} {_article(rng.choice(others))}"
        elif kind < 0.6 and events:
            subject = f"{short} who {rng.choice(events)}"
        elif kind < 0.86 and others:
            subject = f"{short} and {_article(rng.choice(others))}"
        elif kind < 0.88 and name:
            subject = f"{short} named {name}"
        elif kind < 0.93 and (noun not in PEOPLE or not things):
            subject = short
    if subject is None and kind < 0.96 and len(things) >= 2:
        rng.shuffle(things)
        return rng.choice(ASK_WORDS).format(x=", ".join(things[: rng.choice((2, 3))]))
    if subject is None and themes and (not things or rng.random() < 0.5):
        subject = rng.choice(themes)
    if subject is None and things:
        subject = _article(rng.choice(things))
    if subject is None:
        return None
    return rng.choice(ASK[:4] if rng.random() < 0.4 else ASK).format(x=subject)


def story_chats(texts: list[str], variants: int, rng: random.Random) -> list[list[dict]]:
    """`variants` rewritten chat examples of each story of moderate length; twice as many if it has a clear main character."""
    out = []
    for text in texts:
        if not 250 <= len(text) <= 1500:
            continue
        found = _character(text)
        special = bool(found) and found[0].split()[-1] in ANIMALS + PEOPLE
        for index in range(variants * (2 if special else 1)):
            story = text if index == 0 else rewrite(text, rng)
            ask = request(story, rng)
            if ask is None or ask.lower() in FORBIDDEN:
                continue
            out.append([{"role": "user", "content": ask}, {"role": "assistant", "content": rng.choice(OPEN) + story}])
    return out
