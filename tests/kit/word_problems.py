"""Word problems in GSM8K's format, made up here, with what tempts a tutor to say the answer."""

import json
from pathlib import Path

PENS = {
    "question": "Mara buys 4 boxes of pens. Each box holds 12 pens, and 6 pens are dry. How many pens can she use?",
    "answer": "She buys 4 * 12 = <<4*12=48>>48 pens.\nShe can use 48 - 6 = <<48-6=42>>42 pens.\n#### 42",
}
PROBLEMS = [
    PENS,
    # money, thousands
    {
        "question": "A van costs $12,500 and its paint $1,300. Ole pays half at once. How much does he still owe?",
        "answer": "Together that is 12,500 + 1,300 = $<<12500+1300=13800>>13,800.\n"
        "He still owes 13,800 / 2 = $<<13800/2=6900>>6,900.\n#### 6,900",
    },
    # the answer stands in the question
    {
        "question": "Ida has 18 stamps. She gives 9 away and then gets 9 as a gift. How many stamps has she now?",
        "answer": "After giving she has 18 - 9 = <<18-9=9>>9 stamps.\nNow she has 9 + 9 = <<9+9=18>>18 stamps.\n#### 18",
    },
    # ... and there in words, and is an operand of the last step
    {
        "question": "Two buses bring five people each, and five of all of them leave. How many stay, beyond three guides?",
        "answer": "There come 2 * 5 = <<2*5=10>>10 people.\nThere stay 10 - 5 = <<10-5=5>>5 people, and 5 + 3 = 8.\n"
        "Beyond the three guides that is 8 - 3 = <<8-3=5>>5 people.\n#### 5",
    },
    # an earlier step comes to the answer
    {
        "question": "Ben reads 7 pages on each of 5 days, then 14 more, then goes 14 back. On which page is he?",
        "answer": "In 5 days he reads 7 * 5 = <<7*5=35>>35 pages.\nThen he is on page 35 + 14 = <<35+14=49>>49.\n"
        "At last he is on page 49 - 14 = <<49-14=35>>35.\n#### 35",
    },
    # a last line that only repeats
    {
        "question": "A tank holds 90 liters. A third is used, then 20 liters more. How much is left?",
        "answer": "A third is 90 / 3 = <<90/3=30>>30 liters.\nThere is 90 - 30 - 20 = <<90-30-20=40>>40 liters.\n"
        "So forty liters are left.\n#### 40",
    },
    # percent, decimals
    {
        "question": "A hat costs $8. It becomes 25% cheaper, and Li buys three. How much does he pay?",
        "answer": "It becomes 8 * 25% = $<<8*25*.01=2>>2 cheaper.\nA hat is 8 - 2 = $<<8-2=6>>6.\n"
        "He pays 6 * 3 = $<<6*3=18.00>>18.00.\n#### 18",
    },
    # units between the numbers
    {
        "question": "A pump moves 15 liters a minute. How many liters does it move in 2 hours?",
        "answer": "2 hours are 2 hours * 60 minutes/hour = <<2*60=120>>120 minutes.\n"
        "It moves 120 minutes * 15 liters/minute = <<120*15=1800>>1800 liters.\n#### 1800",
    },
    # letters
    {
        "question": "Twice a number and 6 is 30. What is the number?",
        "answer": "Let x be the number.\n2x + 6 = 30\n2x = 24\nx = <<24/2=12>>12\n#### 12",
    },
    # the answer named before the last =
    {
        "question": "A row has 25 seats, and 16 are taken. How many are free?",
        "answer": "All seats are 25 * 1 = <<25*1=25>>25.\nThere are 9 free seats because 25 - 16 = <<25-16=9>>9.\n#### 9",
    },
    # one step
    {
        "question": "Ann has 3 coins and finds 11. How many has she?",
        "answer": "She has 3 + 11 = <<3+11=14>>14.\n#### 14",
    },
    # no sign of equality
    {
        "question": "A choir of seventy thousand sings, and 500 leave. How many stay?",
        "answer": "Of 70,000 there leave 500.\nThere stay 69,500 people.\n#### 69500",
    },
]


def write_problems(folder: Path) -> Path:
    """A file of JSON lines with all of them."""
    file = folder / "problems.jsonl"
    file.write_text("".join(f"{json.dumps(problem)}\n" for problem in PROBLEMS), encoding="utf-8")
    return file
