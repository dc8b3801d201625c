r"""Units: `cm`, `square meters`, `\frac{\text{m}}{\text{s}}`, `miles per hour`, as powers of units that have no other."""

import re
from fractions import Fraction
from typing import NamedTuple

_TABLE = r"""
m       1 m             meter metre
cm      1/100 m         centimeter centimetre
mm      1/1000 m        millimeter millimetre
km      1000 m          kilometer kilometre
\mum    1/1000000 m
in      0.0254 m        inch inche
ft      0.3048 m        foot feet
yd      0.9144 m        yard
mi      1609.344 m      mile
L       1/1000 m^3      l liter litre
mL      1/1000000 m^3   ml milliliter millilitre
gal     1 gallon        gallon
kg      1 kg            kilogram
g       1/1000 kg       gram
mg      1/1000000 kg    milligram
lb      1 lb
oz      1/16 lb         ounce
ton     1 ton           tonne
s       1 s             sec second
ms      1/1000 s        millisecond
min     60 s            minute
h       3600 s          hr hour
day     86400 s
week    604800 s
month   1 month
year    12 month        yr
mph     1609.344/3600 m/s
N       1 N             newton
kN      1000 N
J       1 J             joule
kJ      1000 J
W       1 W             watt
kW      1000 W
Pa      1 Pa            pascal
kPa     1000 Pa
V       1 V             volt
A       1 A             amp ampere
\Omega  1 ohm           ohm
Hz      1 Hz            hertz
kHz     1000 Hz
K       1 kelvin        kelvin
^\circC 1 celsius       celsius
^\circF 1 fahrenheit    fahrenheit
^\circ  1 degree        deg degree
rad     1 rad           radian
cent    1 cent
\$      100 cent        dollar usd
€       1 euro          euro eur
£       1 pound         pound gbp
¥       1 yen           yen
₹       1 rupee         rupee
peso    1 peso
yuan    1 yuan
"""
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_WORD = re.compile(
    r"\^\\circ(?:\s*[CF]\b)?|\\mu\s*[A-Za-z]+|\\[$A-Za-z]+|[A-Za-z]+|[€£¥₹]|\^\s*\{?\s*(-?\d)\s*\}?|/"
)


class Unit(NamedTuple):
    """How many of which units that have no other: `km/h` is 1000/3600 of `m` to the power of 1 and `s` to -1."""

    factor: Fraction
    powers: frozenset[tuple[str, int]]


def _of(name: str, power: int) -> tuple[Fraction, dict[str, int]]:
    factor, bases = _UNITS[name]
    return factor**power, {base: power * exponent for base, exponent in bases.items()}


def _known() -> dict[str, tuple[Fraction, dict[str, int]]]:
    units: dict[str, tuple[Fraction, dict[str, int]]] = {}
    for line in _TABLE.strip().splitlines():
        name, count, base, *others = line.split()
        above, _, below = count.partition("/")
        first, *rest = re.findall(r"([^/^]+)(?:\^(\d))?", base)
        bases = {first[0]: int(first[1] or 1), **{unit: -1 for unit, _ in rest}}
        long = [other + plural for other in others for plural in ("", "s")]
        for written in (name, *long, *([f"{name}s"] if name.isalpha() and len(name) > 1 else [])):
            units.setdefault(written, (Fraction(above) / Fraction(below or 1), bases))
    return units


_UNITS = _known()


def is_unit(word: str) -> bool:
    """Is it the name of a unit, or says a power of one?"""
    return _name(word) in _UNITS or word.lower() in _POWERS


def _name(word: str) -> str:
    return word if word in _UNITS or len(word) < 3 else word.lower()


def unit_of(words: str) -> Unit | None:
    """The unit that LaTeX without commands for text names; None where there is none, or a word that is not known."""
    factor, powers = Fraction(1), dict[str, int]()
    sign, next_power, last = 1, 1, ""
    for found in _WORD.finditer(words):
        word, exponent = re.sub(r"\s", "", found[0]), found[1]
        if word in ("/", "per", r"\cdot"):
            sign = sign if word == r"\cdot" else -1
            continue
        if exponent is not None:
            if not last:
                return None
            more, bases = _of(last, sign * (int(exponent) - 1))
        elif word.lower() in _POWERS:
            next_power = _POWERS[word.lower()]
            continue
        else:
            last = _name(word)
            if last not in _UNITS:
                return None
            more, bases = _of(last, sign * next_power)
            next_power = 1
        factor *= more
        for base, power in bases.items():
            powers[base] = powers.get(base, 0) + power
    if not last:
        return None
    if powers.get("celsius") or powers.get("fahrenheit"):
        powers.pop("degree", None)  # degrees Celsius
    return Unit(factor, frozenset((base, power) for base, power in powers.items() if power))


DEGREE = unit_of("deg")
