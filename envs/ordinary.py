"""Ordinary prompts in English, for a small instruct model to rehearse: what it could before, beside what it is to learn."""

_THINGS = (
    "a bicycle", "a mirror", "the sun", "a candle", "a river", "bread", "a camera", "glass", "a bridge", "a clock",
    "snow", "a desert", "honey", "a library", "paper", "a battery", "wind", "an island", "salt", "a novel",
)  # fmt: skip
_JOBS = (
    "a nurse", "a pilot", "a farmer", "a judge", "a baker", "an engineer", "a painter", "a teacher", "a plumber",
    "a librarian",
)  # fmt: skip
_WORDS = (
    "gather", "fragile", "ancient", "whisper", "brave", "harvest", "mirror", "curious", "repair", "generous", "distant",
    "silent", "improve", "bargain", "luggage",
)  # fmt: skip
_PAIRS = (
    ("cats", "dogs"), ("tea", "coffee"), ("trains", "planes"), ("lakes", "oceans"), ("plays", "films"), ("bees", "wasps"),
    ("poems", "stories"), ("forks", "spoons"), ("maps", "globes"), ("letters", "emails"),
)  # fmt: skip
_TOPICS = (
    "the history of chess", "why leaves are green", "how bees make honey", "why the sky is blue", "how a lock works",
    "why we sleep", "how cheese is made", "what a passport is for", "how a sail works", "why ice floats",
    "how a plant grows from a seed", "why onions make us cry", "how the stock market works", "what a mayor does",
    "how glasses help people see",
)  # fmt: skip
_TASKS = (
    "plan a birthday party", "fix a flat tire", "improve my handwriting", "prepare for an exam", "make a good cup of tea",
    "stop procrastinating", "grow tomatoes", "write a thank-you note", "pack for a weekend trip", "remember names",
)  # fmt: skip
_FRENCH = (
    "Good morning", "Thank you very much", "Where is the station?", "I am hungry", "See you tomorrow", "My name is Anna",
    "How much is it?", "I like music",
)  # fmt: skip
_TEXTS = (
    "The meeting was moved from Monday to Wednesday because the manager was ill.",
    "The old bridge was closed after the storm, so people had to take the ferry.",
    "Maria baked three cakes for the fair and sold all of them before noon.",
    "The museum opened a new hall with paintings of the sea.",
    "The town planted two hundred trees along the main road this spring.",
    "A fox came into the garden at night and took a shoe.", "The train was late, but the passengers got free coffee.",
    "Tom lost his keys in the park and a child found them.",
)  # fmt: skip
_VERBS = (
    "see", "take", "buy", "write", "break", "find",
)  # fmt: skip
_FAMOUS = (
    "painter", "scientist", "river", "city", "song", "book", "mountain", "king", "explorer", "singer",
)  # fmt: skip
_KINDS = (
    "a rose", "a hammer", "a whale", "moss", "a spider", "a spoon",
)  # fmt: skip
_CHAT = (
    "Hello!", "How are you?", "Who are you?", "Tell me something interesting.", "Good night!", "I'm bored.",
    "Can you help me?", "What should I eat tonight?", "Tell me a joke.", "I had a bad day.",
    "What's your favorite color?", "Do you like music?", "Thanks for your help.", "What can you do?", "Give me a riddle.",
)  # fmt: skip
_SUMS = (
    (12, 7), (25, 14), (31, 8), (16, 16), (40, 27), (19, 5), (52, 33), (11, 10), (23, 60), (14, 9), (35, 35), (18, 21),
)  # fmt: skip


def prompts() -> list[str]:
    """160 prompts of many kinds; one line each."""
    return [
        *(f"What is {thing} used for?" for thing in _THINGS),
        *(f"What does {job} do all day?" for job in _JOBS),
        *(f'Use the word "{word}" in two sentences.' for word in _WORDS),
        *(f'What does "{word}" mean?' for word in _WORDS),
        *(f"What is the difference between {one} and {other}?" for one, other in _PAIRS),
        *(f"Tell me about {topic}." for topic in _TOPICS),
        *(f"Give me three tips to {task}." for task in _TASKS),
        *(f"Translate into French: {text}" for text in _FRENCH),
        *(f"Summarize: {text}" for text in _TEXTS),
        *(f"Rewrite in the past tense: I {verb} it." for verb in _VERBS),
        *_CHAT,
        *(f"Add {a} and {b}." for a, b in _SUMS),
        *(f"Name a famous {one}." for one in _FAMOUS),
        *(f"Is {one} an animal, a plant or a thing?" for one in _KINDS),
    ]
