"""Service dialogues composed from parts, in addition to the recorded ones in the corpus.

The assistant's turns in the recorded dialogues are mostly one short question, and only some hundred of them begin with
a table. These teach the same tasks (a table, a room, a ride, tickets) with answers of several sentences that repeat
what the user has said. All names of places are invented or generic. A few exchanges about the model itself are here,
too.
"""

import random

FORBIDDEN = {"i'd like to book a table for two at an italian restaurant tonight."}

CUISINES = "Italian Chinese Mexican Indian Thai Japanese French Greek Spanish Korean Vietnamese Turkish American seafood vegetarian".split()
CITIES = """San Jose|Oakland|Berkeley|San Francisco|Fremont|Palo Alto|Napa|Santa Rosa|London|Paris|New York|Chicago|Seattle|
Boston|Portland|Denver|Sacramento|Livermore|Dublin|Vallejo""".replace("\n", "").split("|")
RESTAURANTS = {
    "Italian": ["La Piazza", "Bella Roma", "Trattoria Rosa", "Il Forno", "Luigi's"],
    "Chinese": ["Golden Lotus", "Jade Garden", "Red Lantern"],
    "Mexican": ["Casa Verde", "El Sombrero", "La Paloma"],
    "Indian": ["Taste of Delhi", "Spice Garden", "Maharaja"],
    "Thai": ["Bangkok House", "Thai Orchid"],
    "Japanese": ["Sakura", "Tokyo Kitchen"],
    "French": ["Chez Marie", "Le Petit Jardin"],
    "Greek": ["Athena", "The Olive Tree"],
    "Spanish": ["Casa Lola", "El Patio"],
    "Korean": ["Seoul Garden"],
    "Vietnamese": ["Saigon Star"],
    "Turkish": ["Istanbul Grill"],
    "American": ["The Blue Plate", "Main Street Diner"],
    "seafood": ["The Lobster Pot", "Harbor House"],
    "vegetarian": ["The Green Leaf", "Garden Table"],
}
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
DAYS = [
    "tonight",
    "tomorrow",
    "tomorrow night",
    "on Friday",
    "on Saturday",
    "this evening",
    "next Monday",
    "on Sunday",
    "on March 8th",
    "for lunch today",
]
TIMES = ["6 pm", "6:30 pm", "7 pm", "7:30 pm", "8 pm", "8:30 pm", "noon", "1 pm", "12:30 pm", "5 pm"]
YES = [
    "Yes, please.",
    "Yes, that's right.",
    "That sounds good.",
    "Yes, go ahead.",
    "Perfect, thanks.",
    "Yes, that works for me.",
    "Sounds great.",
]
THANKS = ["Thank you!", "Thanks a lot.", "No, that's all. Thank you.", "That's all, thanks.", "Great, thank you very much."]
BYE = [
    "You're welcome! Have a great day.",
    "You're welcome. Enjoy your evening!",
    "My pleasure. Have a nice day!",
    "Glad I could help. Goodbye!",
]
MORE = ["Is there anything else I can help you with?", "Can I help you with anything else?", "Do you need anything else?"]
SURE = ["Sure, I can help you with that.", "I would be happy to help.", "Of course.", "Certainly!", "No problem."]


def _article(word: str) -> str:
    return ("an " if word[0] in "AEIOUaeiou" else "a ") + word


def _finish(turns: list[str], rng: random.Random) -> list[str]:
    if rng.random() < 0.6:
        turns += [rng.choice(THANKS), rng.choice(BYE)]
    return turns


def _table(rng: random.Random) -> list[str]:
    """A table in a restaurant; the assistant asks for what the first request leaves out."""
    cuisine, city, day, time = rng.choice(CUISINES), rng.choice(CITIES), rng.choice(DAYS), rng.choice(TIMES)
    count = rng.choice(NUMBERS)
    people = "one person" if count == "one" else count + rng.choice([" people", "", ""])
    size = f"for {people}"
    place = rng.choice(RESTAURANTS[cuisine])
    says = {
        "size": rng.random() < 0.75,
        "cuisine": rng.random() < 0.75,
        "day": rng.random() < 0.6,
        "time": rng.random() < 0.25,
        "city": rng.random() < 0.25,
    }
    wanted = _article(cuisine + " restaurant") if says["cuisine"] else "a restaurant"
    details = (f" {size}" if says["size"] else "") + f" at {wanted}" + (f" in {city}" if says["city"] else "")
    when = (f" {day}" if says["day"] else "") + (f" at {time}" if says["time"] else "")
    ask = rng.choice(
        [
            "I'd like to book a table{d}{w}.",
            "I want to reserve a table{d}{w}.",
            "Can you book a table{d}{w}?",
            "Please book me a table{d}{w}.",
            "I need a table{d}{w}.",
            "Could you reserve a table{d}{w} for me?",
            "Book a table{d}{w}, please.",
            "I would like to make a reservation{d}{w}.",
            "Hi, I'd like a table{d}{w}.",
            "I am looking for a table{d}{w}.",
        ]
    ).format(d=details, w=when)
    party = "you" if count == "one" else people
    repeat = (
        "I can book a table"
        + (f" {size}" if says["size"] else "")
        + (f" at {wanted}" if says["cuisine"] else "")
        + (when if says["day"] else "")
        + "."
    )
    questions, answer = [], []
    if not says["city"]:
        questions.append(
            rng.choice(["In which city would you like to eat?", "Which city should I look in?", "What city are you in?"])
        )
        answer.append(f"in {city}")
    if not says["cuisine"]:
        questions.append(rng.choice(["What kind of food would you like?", "Do you have a type of food in mind?"]))
        answer.append(f"{cuisine} food")
    if not says["size"]:
        questions.append(rng.choice(["How many people will be there?", "For how many people should it be?"]))
        answer.append(size)
    if not says["day"]:
        questions.append(rng.choice(["For which day is the reservation?", "What day would you like?"]))
        answer.append(day)
    if not says["time"]:
        questions.append(
            rng.choice(
                [
                    "What time would you like to come?",
                    "And what time should I book it for?",
                    "At what time would you like to eat?",
                ]
            )
        )
        answer.append(f"at {time}")
    turns = [ask]
    if questions:
        first = questions[:3]
        turns.append(" ".join([rng.choice(SURE)] + ([repeat] if rng.random() < 0.75 or len(first) == 1 else []) + first))
        reply = ", ".join(answer[: len(first)]) + rng.choice(["", ", please"]) + "."
        turns.append(reply[0].upper() + reply[1:])
        if answer[3:]:
            turns.append(" ".join(["Thank you."] + questions[3:]))
            turns.append(", ".join(answer[3:]).capitalize() + ".")
    confirm = f"a table {size} at {place} in {city} {day} at {time}"
    turns.append(
        rng.choice(
            [
                f"I found {place}, {_article(cuisine + ' restaurant')} in {city}. Please confirm: {confirm}. Is that correct?",
                f"There is a nice {cuisine} restaurant called {place} in {city}. I will book {confirm}. Does that sound good?",
                f"{place} is a good place for {cuisine} food. Shall I reserve {confirm}?",
            ]
        )
    )
    if rng.random() < 0.15:
        other = rng.choice(TIMES)
        turns += [
            f"No, make it {other} instead.",
            f"No problem. I will book a table {size} at {place} {day} at {other}. Is that correct?",
        ]
        time = other
    turns.append(rng.choice(YES))
    turns.append(
        rng.choice(
            [
                f"Your table is booked. {place} expects {party} {day} at {time}.",
                f"Your reservation at {place} is confirmed for {time}. I hope you enjoy your meal!",
                f"Great news, your table at {place} has been reserved {day} at {time}.",
            ]
        )
        + " "
        + rng.choice(MORE)
    )
    return _finish(turns, rng)


def _room(rng: random.Random) -> list[str]:
    """A hotel room."""
    city, nights, day = (
        rng.choice(CITIES),
        rng.choice(NUMBERS[1:6]),
        rng.choice(["tomorrow", "Friday", "next Monday", "March 5th", "the 12th of this month"]),
    )
    hotel, guests = (
        rng.choice(["Park Hotel", "Grand Hotel", "Hotel Central", "Riverside Inn", "Station Hotel", "Garden Hotel"]),
        rng.choice(NUMBERS[:4]),
    )
    ask = rng.choice(
        [
            f"I need a hotel in {city}.",
            f"Can you book a hotel room in {city}?",
            f"I am looking for a place to stay in {city}.",
            f"Please find me a hotel in {city} for {nights} nights.",
        ]
    )
    turns = [
        ask,
        f"{rng.choice(SURE)} I can look for a hotel in {city}. When will you arrive, and how many people will stay?",
        f"We arrive {day}. It is for {guests}.",
        f"The {hotel} in {city} has a free room from {day}. It has good reviews and a quiet garden. How many nights would you like to stay?",
        f"{nights.capitalize()} nights.",
        f"Please confirm: a room for {guests} at the {hotel} in {city} for {nights} nights from {day}. Is that correct?",
        rng.choice(YES),
        f"Your room at the {hotel} is booked for {nights} nights. Have a pleasant stay in {city}! {rng.choice(MORE)}",
    ]
    return _finish(turns, rng)


def _ride(rng: random.Random) -> list[str]:
    """A taxi."""
    place, count, time = (
        rng.choice(["the airport", "the train station", "the museum", "the city center", "the hospital", "the theater"]),
        rng.choice(NUMBERS[:4]),
        rng.choice(TIMES),
    )
    turns = [
        rng.choice(
            [
                f"I need a taxi to {place}.",
                f"Can you get me a ride to {place}?",
                f"Please book a cab to {place}.",
                f"I'd like to book a taxi to {place}.",
            ]
        ),
        f"{rng.choice(SURE)} I can book a taxi to {place}. For how many people should it be, and what time should it pick you up?",
        f"For {count}, at {time}.",
        f"You want a taxi for {count} to {place} at {time}. Is that correct?",
        rng.choice(YES),
        f"Your taxi is on its way and will be there at {time}. The driver will take you to {place}. {rng.choice(MORE)}",
    ]
    return _finish(turns, rng)


def _tickets(rng: random.Random) -> list[str]:
    """Tickets for a film, a concert or a train."""
    count, city, day, time = (
        rng.choice(NUMBERS[:5]),
        rng.choice(CITIES),
        rng.choice(["tonight", "tomorrow", "on Friday", "on Saturday"]),
        rng.choice(TIMES),
    )
    what = rng.choice(
        [
            "a movie",
            "a concert",
            "the theater",
            "a train to " + rng.choice(CITIES),
            "a bus to " + rng.choice(CITIES),
            "a baseball game",
        ]
    )
    noun = "ticket" if count == "one" else "tickets"
    turns = [
        rng.choice(
            [
                f"I want to buy {noun} for {what}.",
                f"Can you get me {count} {noun} for {what}?",
                f"I need {count} {noun} for {what} {day}.",
            ]
        ),
        f"{rng.choice(SURE)} I can get you {noun} for {what}. Which city are you in, and what day would you like to go?",
        f"In {city}, {day}.",
        f"I found one in {city} {day} at {time}. Tickets are ${rng.randint(8, 60)} each. Would you like me to buy {count} {noun}?",
        rng.choice(YES),
        f"I have bought {count} {noun} for {what} {day} at {time}. {rng.choice(['Have fun!', 'Enjoy it!', 'Have a nice trip!'] if ' to ' not in what else ['Have a nice trip!'])} {rng.choice(MORE)}",
    ]
    return _finish(turns, rng)


ABOUT = [
    (
        [
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Are you a robot?",
            "Are you human?",
            "who are you",
        ],
        [
            "I am a small language model that comes with Kinglet. I can tell short stories and have simple conversations.",
            "I am the demonstration model of Kinglet. I am very small, so I make mistakes, but I can tell you a story.",
        ],
    ),
    (
        ["What can you do?", "How can you help me?", "Help me.", "What are you good at?", "what can you do"],
        [
            "I can tell you a short story, or we can act out how you book a table, a taxi or a hotel. I am only a small demonstration, so please do not rely on what I say.",
            "I like to tell short stories. Ask me for a story about a cat, a kite or a birthday! I can also talk about bookings, but I cannot really book anything.",
        ],
    ),
    (
        ["Hello!", "Hi", "Hello", "Hi there!", "Good morning.", "Hey", "Good evening!", "hello", "hi"],
        [
            "Hello! How can I help you today?",
            "Hi! What can I do for you? Would you like to hear a story?",
            "Hello! It is nice to meet you. Would you like a story?",
        ],
    ),
    (
        ["Thank you.", "Thanks!", "Thank you very much!"],
        ["You're welcome!", "You're welcome! Is there anything else I can do for you?"],
    ),
    (
        ["How are you?", "How are you today?", "How is it going?"],
        ["I am fine, thank you. How are you?", "I am doing well, thanks for asking! What can I do for you?"],
    ),
    (["Goodbye!", "Bye", "See you later."], ["Goodbye! Have a nice day.", "Bye! It was nice to talk to you."]),
]


def service_chats(count: int, rng: random.Random) -> list[list[dict]]:
    """`count` dialogues; half of them book a table."""
    out = []
    while len(out) < count:
        turns = rng.choice([_table, _table, _table, _room, _ride, _tickets])(rng)
        if turns[0].lower() in FORBIDDEN:
            continue
        out.append([{"role": "assistant" if i % 2 else "user", "content": t} for i, t in enumerate(turns)])
    return out


def about_chats(count: int, rng: random.Random) -> list[list[dict]]:
    """`count` short exchanges about the model itself, greetings and thanks."""
    out = []
    for _ in range(count):
        asks, answers = rng.choice(ABOUT)
        out.append([{"role": "user", "content": rng.choice(asks)}, {"role": "assistant", "content": rng.choice(answers)}])
    return out
