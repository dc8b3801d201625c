r"""Canonical answers, and answers of which a person would say that they are right or wrong; by kind.

A line is a canonical answer and, behind `==` or `!=`, answers to it, separated by `|`.
"""


def pairs(table: dict[str, str]) -> list[tuple[str, str, list[str]]]:
    """Kind, canonical answer and answers of each line."""
    found: list[tuple[str, str, list[str]]] = []
    for kind, lines in table.items():
        for line in lines.strip().splitlines():
            canonical, _, answers = line.replace("  !=  ", "  ==  ").partition("  ==  ")
            found.append((kind, canonical, answers.split(" | ")))
    return found


RIGHT = {
    "the same number": r"""
18  ==  18 | 18.0 | 18. | +18 | $18$ | \(18\) | \mathbf{18} | {18} | 018 | \,18\,
-7  ==  -7 | −7 | - 7 | -7.0 | -\,7 | (-7)
142.0  ==  142 | 142.00
0.5  ==  .5 | 1/2 | \frac12 | \frac{1}{2} | \dfrac{1}{2} | \tfrac12 | 0{,}5 | 5 \times 10^{-1}
\frac{3}{4}  ==  3/4 | 0.75 | \frac{6}{8} | \frac34 | {3}/{4} | \dfrac{3}{4} | \frac{3.0}{4}
-\frac{1}{2}  ==  \frac{-1}{2} | -0.5 | -1/2 | \frac{1}{-2} | -\dfrac12
\frac{1}{3}  ==  0.333333333 | 1/3 | \frac{2}{6}
0  ==  0 | 0.0 | -0 | 0.00
""",
    "powers of ten": r"""
3e5  ==  3e5 | 3E5 | 3e+5 | 3e05 | 300000 | 300,000 | 3 \times 10^5 | 3\cdot 10^{5} | 3*10^5
3e5  ==  3.0 \times 10^{5} | 30e4 | 3\mathrm{e}5 | 3\times{10}^{5} | 0.3 \times 10^6 | 3 x 10^5
1e-05  ==  10^{-5} | 0.00001 | 1 \times 10^{-5} | 1e-5 | 1.0e-05 | \frac{1}{100000} | 1\cdot10^{-5}
6.6 \times 10^{-34}  ==  6.6e-34 | 6.6\cdot10^{-34} | 66 \times 10^{-35} | 6.60 \times 10^{-34}
4.5e33  ==  4.5e33 | 4.5 \times 10^{33} | 4.5\times10^{33}\text{ erg} | 45 \times 10^{32}
-2.5e-3  ==  -0.0025 | -2.5 \times 10^{-3} | -25e-4
10^{6}  ==  1000000 | 1e6 | 1,000,000 | 10^6
1.6e7  ==  16000000 | 16 \times 10^6 | 1.6 \times 10^{7} \text{ m} | 16e6
""",
    "thousands": r"""
58500  ==  58,500 | 58{,}500 | 58\,500 | 58\,500.0 | 58 500 | 58,\!500 | x=58,500
1,000  ==  1000 | 1{,}000 | 1 000
1234567  ==  1,234,567 | 1{,}234{,}567 | 1\,234\,567 | 1\ 234\ 567
1234.5  ==  1,234.5 | 1\,234.5 | 1{,}234.50
""",
    "mixed numbers": r"""
1 1/4  ==  1.25 | 5/4 | 1\frac{1}{4} | 1 \frac14 | \frac{5}{4} | 1\ \dfrac{1}{4} | 1 1/4
1\frac{1}{4}  ==  1 1/4 | 5/4 | 1.25
\frac{7}{2}  ==  3\frac{1}{2} | 3 1/2 | 3.5
-2\frac{1}{3}  ==  -\frac{7}{3} | -2 1/3
""",
    "units and currency": r"""
18  ==  \$18 | 18\text{ dollars} | 18 dollars | \$18.00 | 18\$ | 18 \text{ USD} | €18 | 18 €
18  ==  18 \text{ eggs} | 18\,\text{cm} | 18\mathrm{~cm} | 18 \mbox{ inches} | 18\ \text{years old}
30  ==  30^\circ | 30^{\circ} | 30° | 30 degrees | 30\text{ degrees} | 30\degree
30^\circ  ==  30 | 30^{\circ} | 30 \text{ degrees}
\$32,348  ==  32348 | 32,348 | \$32{,}348 | \$ 32348 | 32348 dollars
5\text{ cm}  ==  5 | 5 cm | 5\,\mathrm{cm} | 5 \text{ centimeters} | 5.0 \text{ cm}
12\text{ cm}^2  ==  12 | 12\,\mathrm{cm}^2 | 12 \text{ square centimeters} | 12 cm^2 | 12\text{ cm}^{2}
20\%  ==  20 | 20% | 20\% | 0.2 | \frac{1}{5} | 20 \text{ percent}
20  ==  20\% | 20 percent
0.2  ==  20\%
3.5  ==  3.5 \text{ m/s} | 3.5\ \mathrm{m/s^2} | 3.5 \frac{\text{m}}{\text{s}} | 3.5 \text{ kg}\cdot\text{m}
\frac{1}{2}  ==  \frac{1}{2} \text{ hour} | 1/2 hour | 0.5 \text{ hours}
""",
    "style": r"""
18  ==  \textbf{18} | \boldsymbol{18} | \bf{18} | {\bf 18} | \mathrm{18} | \text{18} | \textit{18}
18  ==  \color{red}18 | \color{red}{18} | \textcolor{blue}{18} | {\color{red}18} | \mathbf{\color{blue}{18}}
18  ==  \displaystyle 18 | \large 18 | \underline{18} | \boxed{18} | \fbox{18} | \mathsf{18} | \left(18\right)
\frac{1}{2}  ==  \displaystyle\frac{1}{2} | \mathbf{\frac{1}{2}} | \color{red}{\frac{1}{2}}
\sqrt{2}  ==  \mathbf{\sqrt{2}} | \sqrt2 | \sqrt{\mathbf{2}}
""",
    "a name before it": r"""
5  ==  x=5 | x = 5 | n=5 | f(x)=5 | a_1 = 5 | \theta = 5 | x=\mathbf{5} | x := 5 | x \approx 5
x=5  ==  5 | x=5 | x = 5.0
58500  ==  P=\$58{,}500 | \text{Total} = 58500 | \text{Answer: } 58500
2x+1  ==  y=2x+1 | f(x) = 2x+1 | 1+2x
(1,2)  ==  (x,y)=(1,2) | (a, b) = (1, 2)
""",
    "text": r"""
\text{Evelyn}  ==  Evelyn | \text{Evelyn} | \textbf{Evelyn} | evelyn | \mathrm{Evelyn} | \text{ Evelyn }
\text{(C)}  ==  C | (C) | \textbf{(C)} | \text{C} | \mathbf{C} | \text{(C) }
C  ==  \text{C} | (C) | C. | \mathrm{C} | \textbf{C}
\text{east}  ==  east | East | \text{East}
\text{even}  ==  even | \textit{even}
Yes  ==  yes | \text{Yes} | \text{yes.}
\text{no solution}  ==  no solution | \text{No solution} | \text{no solution.}
12:00  ==  12:00 | \text{12:00} | 12{:}00
10:30\text{ a.m.}  ==  10:30 a.m. | 10:30\text{ a.m.} | 10:30 \text{ AM} | 10:30
2:3  ==  2:3 | 2\!:\!3 | \text{2:3}
""",
    "expressions": r"""
\sqrt{8}  ==  2\sqrt{2} | 2\sqrt2 | \sqrt8 | 2 \cdot \sqrt{2} | 8^{1/2} | \sqrt{2}\cdot2
\frac{\sqrt{2}}{2}  ==  \frac{1}{\sqrt{2}} | \sqrt{2}/2 | \frac{\sqrt2}2 | \sqrt{\frac12}
p - q  ==  -q + p | p-q | -(q-p)
x^2+2x+1  ==  (x+1)^2 | 1+2x+x^2 | x^{2}+2x+1 | (x+1)(x+1)
2\pi  ==  2\pi | \pi \cdot 2 | 2 \pi | \pi+\pi | 2\,\pi
e^2  ==  e^{2} | e \cdot e
3e  ==  3e | 3 \cdot e | e+2e
3e^5  ==  3e^{5} | 3 \cdot e^5
1+\sqrt{3}i  ==  1+i\sqrt{3} | \sqrt{3}i+1
\ln 2  ==  \ln(2) | \ln{2} | \frac{\ln 4}{2}
2^{10}  ==  1024 | 2^{10}
5!  ==  120 | 5!
""",
    "tuples and sets": r"""
(1,2)  ==  (1, 2) | \left( 1, 2 \right) | (1,\,2) | (1.0,2) | (\frac{2}{2}, 2)
\{1,2\}  ==  \{2,1\} | 2, 1 | 1,2 | \left\{1,2\right\} | 1 \text{ and } 2 | 1 \text{ or } 2
1, 2  ==  2, 1 | 1,2 | x=1, x=2 | x=1 \text{ or } x=2 | \{1,2\} | 1 and 2
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ==  \begin{pmatrix}1\\2\end{pmatrix}
""",
    "intervals and inequalities": r"""
[1, \infty)  ==  [1,\infty) | x \ge 1 | x \geq 1 | 1 \le x | [1,+\infty) | x\in[1,\infty)
(-\infty, 3)  ==  x<3 | x < 3 | 3 > x | (-\infty,3) | x \lt 3
x > 3  ==  (3,\infty) | x>3 | 3<x | x \in (3, \infty) | (3, +\infty)
(1,5]  ==  1 < x \le 5 | 1<x\leq5 | 5 \ge x > 1 | x \in (1, 5]
-2 \le x \le 2  ==  [-2,2] | -2\leq x\leq 2 | x\in[-2,2]
(-\infty,1)\cup(2,\infty)  ==  x<1 \text{ or } x>2 | (-\infty, 1) \cup (2, \infty)
x \neq 0  ==  x \neq 0 | x\ne0 | x \not= 0 | x≠0
""",
    "numbers in words, and small units": r"""
3 million  ==  3000000 | 3{,}000{,}000 | 3 \text{ million} | \$3 million | 3 \times 10^6
\$0.05  ==  5 cents | \$.05 | 0.05
5 m  ==  5 | 5\text{ m} | 5 meters | 5.0 m
08:30  ==  8:30 | 08:30
x^{2}  ==  x^2
""",
    "equations and names": r"""
x+y=1  ==  y+x = 1 | x=1-y
AB = 5\sqrt{2}  ==  5\sqrt{2}
f^{-1}(x) = 2x  ==  2x
S_{n+1} = 2n  ==  2n
area=5  ==  5
5  ==  x=3+2=5 | x+y=5
0  ==  \sqrt{2}\cdot\sqrt{3}-\sqrt{6}=0
33.33  ==  100/3 = 33.33
ABC  ==  \text{ABC} | \angle ABC | A B C
12_8  ==  12 | 12_{\text{eight}}
12  ==  12_{10} | 12_{\text{ten}}
""",
    "times and ratios": r"""
5 pm  ==  5 | 17:00 | 5:00 \text{ p.m.}
5\text{ p.m.}  ==  5
3:00 PM  ==  3
1:10  ==  1/10 | \frac{1}{10}
3:15  ==  1:5
""",
    "two units": r"""
2 \text{ hours } 30 \text{ minutes}  ==  150 \text{ minutes} | 2.5 \text{ hours} | 2 \text{ hours and } 30 \text{ minutes}
2 hours 30 minutes  ==  150 minutes | \text{2 hours 30 minutes} | 2 \text{ hr}, 30 \text{ min}
5 ft 6 in  ==  66 in | 5.5 \text{ feet}
5.5  ==  5 ft 6 in
""",
    "real numbers and minus in words": r"""
\text{All real numbers}  ==  \mathbb{R} | all real numbers | \text{all reals} | x \in \mathbb{R}
\mathbb{R}  ==  All real numbers | \text{Real numbers}
-5  ==  \text{minus } 5 | minus 5 | \text{negative }5 | \text{minus 5}
-\frac{1}{2}  ==  \text{minus } \frac{1}{2}
""",
}

WRONG = {
    "another number": r"""
18  !=  81 | -18 | 18.1 | 1.8 | 180 | eighteen? | 18, 19 | 18 or 19 | \frac{1}{18} | x | 17.9999
0.5  !=  0.05 | 5 | -0.5 | 0.51 | 1/3 | 0.4999
\frac{3}{4}  !=  \frac{4}{3} | 0.74 | 3 | 34 | -3/4
2  !=  1, 2 | 1 or 2 or 3 | 2$ or $3 | 3} \boxed{2 | 2^2 | 2x
\frac{1}{3}  !=  0.3 | 0.33 | 0.34 | 3
""",
    "powers of ten": r"""
6.6\times10^{-34}  !=  3.3\times10^{-34} | 6.6\times10^{-33} | 0 | 6.6e34 | 6.6
1e-05  !=  1e-06 | 1e5 | 0 | 2e-05 | 0.0001
3e5  !=  3e6 | 3e^5 | 35 | 3 \times 5 | 3000000 | 15
4.5e33  !=  4.5e32 | 4.6e33 | 4.5
0.0000001  !=  0.0000002 | 0 | -0.0000001
\sqrt{2}\times 10^{-9}  !=  \sqrt{3}\times 10^{-9} | 0
""",
    "thousands and mixed numbers": r"""
58500  !=  58.5 | 58 | 500 | 58,50 | (58,500) | 5850
1 1/4  !=  11/4 | \frac{1}{4} | 1/4 | 1.14 | 4/5
3\frac{1}{2}  !=  \frac{3}{2} | 1.5 | 31/2
""",
    "units": r"""
18  !=  \$81 | 81 dollars | 18^2 | 18\pi | \text{dollars}
5\text{ cm}  !=  5 \text{ m} | 50 \text{ cm} | 5 \text{ kg}
20\%  !=  2 | 200 | 0.02 | 80\%
20  !=  0.2 | 0.2\%
30^\circ  !=  60^\circ | \frac{\pi}{3}
""",
    "text": r"""
\text{Evelyn}  !=  \text{Debra} | 5 | Eve | \text{Evelyn or Debra}
\text{(C)}  !=  \text{(B)} | B | CC | (C)(D) | A, C
\text{east}  !=  west | \text{west}
12:00  !=  12:30 | 1200 | 12 | 0 | 12:001
2:3  !=  3:2 | 2.3 | 23
5  !=  \text{five} | {{{ | \left( | 9^9^9^9 | \text{} | nan | inf
\text{even}  !=  odd | \text{odd} | 2
""",
    "expressions": r"""
p - q  !=  q - p | p + q | p
\sqrt{2}  !=  1.41 | 2 | -\sqrt{2} | \sqrt{3}
3e  !=  3e5 | 3 | 8
2\pi  !=  \pi | 2 | \pi^2 | 6.28
x^2+2x+1  !=  x^2+2x | (x-1)^2 | x+1
2x+1  !=  2y+1 | 2x-1
""",
    "tuples, sets, intervals": r"""
(1,2)  !=  (2,1) | (1,2,3) | [1,2) | 1
\{1,2\}  !=  \{1\} | \{1,2,3\} | 1 | 12
1, 2  !=  1, 3 | 1 | 1,2,3
[1, \infty)  !=  (1, \infty) | [1,2) | x>1 | x \le 1 | 1
x > 3  !=  x \ge 3 | x<3 | [3,\infty) | x > 4 | 3
(1,5]  !=  1 \le x \le 5 | [1,5) | (1,5) | 1<x<5
(-\infty,1)\cup(2,\infty)  !=  x<1 \text{ and } x>3 | (-\infty,1) | (1,2)
x \neq 0  !=  x \neq 1 | x = 0 | 0 | x > 0
""",
    "braces that matter": r"""
2^{n-1}  !=  2^n-1
\sqrt{x+1}  !=  \sqrt{x}+1
\frac{1}{2x}  !=  \frac{1}{2}x
\frac{1}{23}  !=  \frac{12}{3}
10^{x+1}  !=  10^x+1
x^{2y}  !=  x^2y
\binom{12}{3}  !=  \binom{1}{23}
\frac{\pi}{24}  !=  \frac{\pi2}{4}
""",
    "words that make another number": r"""
5  !=  5 million | 5 thousand | 5 squared | 5 plus one | 5 sin | 5 \text{ million} | 5 dozen | 5 half
3 million  !=  3 | 3 thousand | 3 billion
7  !=  7 factorial | 7 hundred
""",
    "units and currency, bare": r"""
5 cm  !=  5 m | 5 g | 5 mm
\$5  !=  €5 | 5 cents | £5
\frac{1000001}{3}  !=  333334 | 333333
""",
    "equations and names": r"""
x+y=1  !=  1
x+y+z=6  !=  6
xy=1  !=  1
xyz=6  !=  6
2x = 6  !=  6
(x-1)^2+(y-2)^2=9  !=  9
\frac{x}{2}+\frac{y}{3}=1  !=  1
5  !=  2+2=5 | 1/0 | 1/0=4 | 7 = 5 | x=2+2=5
BAC  !=  ABC
DCBA  !=  ABCD
\text{NOON}  !=  ONNO
12  !=  12_8
10  !=  10_2
""",
    "times and ratios": r"""
5 pm  !=  6 | 5 am | 5:30
3:30 PM  !=  3
1:10  !=  10 | 1/11 | 1:11
""",
    "two units": r"""
2 hours 30 minutes  !=  2.3 hours | 230 minutes | 2 hours | 2 minutes 30 hours
""",
    "minus in words": r"""
5  !=  minus 5 | \text{negative } 5
""",
}
