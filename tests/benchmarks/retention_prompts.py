"""Two hundred ordinary prompts in English, and the sums of two digits: what `retention.py` asks."""

COUNTRIES = (
    "France", "Germany", "Italy", "Spain", "Portugal", "Greece", "Poland", "Austria", "Hungary", "Norway",
    "Sweden", "Finland", "Denmark", "Ireland", "Iceland", "Russia", "Turkey", "Egypt", "Kenya", "Nigeria",
    "Morocco", "India", "China", "Japan", "Thailand", "Vietnam", "Canada", "Mexico", "Cuba", "Brazil",
    "Peru", "Chile", "Argentina", "Australia", "Belgium",
)  # fmt: skip

THINGS = (
    "a rainbow", "gravity", "photosynthesis", "a thunderstorm", "the water cycle", "a magnet", "a volcano", "inflation",
    "a computer program", "the moon's phases", "a vaccine", "an echo", "evolution", "electricity", "a budget", "recycling",
    "a heartbeat", "the internet", "a tide", "an eclipse", "yeast", "a compass", "rust", "democracy", "a library card",
)  # fmt: skip

RUDE = (
    "Give me the report now.", "You are late again.", "This soup is cold.", "I don't want to come.", "Move your car.",
    "Your music is too loud.", "Stop calling me.", "That idea is bad.", "I need my book back.", "You forgot my birthday.",
    "Send me the file today.", "Nobody cleaned the kitchen.", "I cannot help you.", "Wait outside.", "Turn off the light.",
)  # fmt: skip

WRONG = (
    "He go to school every day.", "They was at home yesterday.", "I has two brothers.", "She don't like tea.",
    "We is going to the beach.", "The cats sleeps on the sofa.", "Him and me are friends.", "I seen that film before.",
    "There is many people here.", "She sing very good.", "He have a new bike.", "Where is my shoes?",
    "The childrens are playing.", "I am agree with you.", "It rain a lot last week.",
)  # fmt: skip

LISTS = (
    "fruits that are red", "animals that live in the sea", "things to pack for a beach trip", "kinds of bread",
    "colors of the rainbow", "tools for a garden", "musical instruments", "sports with a ball", "vegetables",
    "good habits", "planets", "things in a kitchen", "jobs in a hospital", "winter clothes", "ways to save water",
    "birds", "board games", "things to do on a rainy day", "healthy snacks", "parts of a bicycle", "school subjects",
    "kinds of weather", "flowers", "reasons to read books", "means of transport",
)  # fmt: skip

TALK = (
    "Hello!", "How are you today?", "Good morning! Any plans for today?", "Tell me a joke.", "What is your name?",
    "I had a long day.", "I am bored. What can I do?", "Thank you for your help.", "Do you like music?",
    "It is raining again.", "I passed my exam!", "I can't sleep.", "What should I have for dinner?", "I miss my friends.",
    "Tell me something interesting.", "My dog is ill.", "I start a new job tomorrow.", "Can you help me with something?",
    "What do you think of cats?", "See you later!",
)  # fmt: skip

WORDS = (
    "hot", "big", "happy", "fast", "light", "old", "early", "strong", "full", "open", "rich", "loud", "wet", "brave",
    "sweet", "near", "deep", "clean", "easy", "high",
)  # fmt: skip

SENTENCES = (
    "river", "lantern", "baker", "winter", "train", "garden", "teacher", "island", "clock", "mountain", "letter", "market",
    "violin", "bridge", "storm",
)  # fmt: skip

ADVICE = (
    "learn to cook", "sleep better", "make new friends", "remember names", "write a letter", "take care of a plant",
    "prepare for a test", "start running", "save money", "give a short speech", "find a lost key", "clean a window",
    "paint a wall", "apologize to a friend", "plan a picnic", "learn a language", "stay calm", "choose a gift",
    "organize a desk", "bake a cake", "train a puppy", "read faster", "spend less time on the phone", "fold a shirt",
    "write a poem", "wake up early", "keep a diary", "thank a teacher", "cut an onion", "cross a busy street",
)  # fmt: skip

_KINDS = {
    "capitals": ("What is the capital of {}?", COUNTRIES),
    "explain": ("Explain {} in one sentence.", THINGS),
    "polite": ("Make this more polite: {}", RUDE),
    "grammar": ("Correct this sentence: {}", WRONG),
    "lists": ("List three {}.", LISTS),
    "talk": ("{}", TALK),
    "opposites": ("What is the opposite of {}?", WORDS),
    "sentences": ("Write a short sentence with the word {}.", SENTENCES),
    "advice": ("How can I {}?", ADVICE),
}

PROMPTS = {form.format(part): kind for kind, (form, parts) in _KINDS.items() for part in parts}
"""Kind of each prompt."""

SUMS = {f"What is {a} + {b}?": a + b for a in range(10) for b in range(10)}
