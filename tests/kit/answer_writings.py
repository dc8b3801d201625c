r"""Answers as `kit.answer_pairs` has them, in writings that math-verify does not read, or reads as another answer."""

RIGHT = {
    "digits and minus signs of other scripts": r"""
42  ==  ٤٢ | ४२ | ４２ | 𝟒𝟐
-42  ==  ‐42 | ‑42 | ‒42 | −42 | ﹣42
x+42  ==  x+٤٢
\frac{1}{2}  ==  \frac{١}{٢} | ١/٢
(1,2)  ==  (١,٢)
\sqrt{2}  ==  √٢
""",
    "subscripts and brackets": r"""
\frac{1}{3} E_{1}+\frac{2}{3} E_{2}  ==  \frac{2E_2}{3}+\frac{E_1}{3} | (\frac{1}{3} E_{1}+\frac{2}{3} E_{2}) | \frac{E_1+2E_2}{3}
x+1  ==  (x+1) | (1+x)
(x+1)(x-1)  ==  (x+1)(x-1) | x^2-1
""",
    "derivatives": r"""
\frac{dy}{dx} = 3x^2  ==  3x^2 | y' = 3x^2 | \frac{dy}{dx}=3x^{2} | f'(x)=3x^2
""",
    "words behind a number": r"""
500000  ==  5 lakh | 0.5 million
\frac{5}{100}  ==  5 hundredths
0.3  ==  3 tenths
5  ==  \text{Exactly }5 | 5 {\text{ cm}} | 5 more apples | 5 \text{ of them}
""",
    "powers of ten": r"""
3e5  ==  3×10⁵ | 3*10**5 | 3\text{E}5 | 3\mathrm{E}5 | \approx 3 \times 10^5 | 3 \ast 10^5
1e-05  ==  10⁻⁵
4.4e7  ==  4.4e7. | 4.4 \times 10^{7}. | 44000000. | 4.4 \times 10^7.
2^{12}  ==  2^12. | 4096.
""",
    "mixed numbers and fractions": r"""
1 1/4  ==  1 + 1/4 | 1+\frac14 | 1¼ | 1 ¼ | 1{\frac{1}{4}} | 1 1/4 cups | (1\frac14) | 1-1/4+1/2
-\frac{5}{4}  ==  −1 ¼
\frac{1}{2}  ==  ½ | 1⁄2 | \nicefrac{1}{2} | \sfrac{1}{2}
2\frac{3}{4}  ==  2¾
2\frac{1}{2}\text{ hours}  ==  150 \text{ minutes}
\frac{2}{3}  ==  ⅔ | 0.\overline{6}
\frac{3}{8}  ==  ⅜
""",
    "intervals": r"""
x \le 2 \text{ or } x \ge 7  ==  (-\infty,2]\cup[7,\infty) | x \geq 7 \text{ or } x \leq 2
[1, \infty)  ==  \{x \mid x \ge 1\} | \{x : x \geq 1\} | \left\{ x \mid x \geq 1 \right\}
[1, \infty)  ==  \{x \in \mathbb{R} : x \ge 1\} | [1; \infty) | \{x \in \mathbb{R} \mid x \geq 1\}
(-\infty, 1) \cup (2, \infty)  ==  \{x \mid x<1 \text{ or } x>2\} | x<1\mbox{ or }x>2
(-2,2)  ==  \lvert x \rvert < 2 | |x|<2
[2,5]  ==  x \ge 2 \text{ and } x \le 5 | \{x \mid 2 \le x \le 5\}
(-\infty, \infty)  ==  \text{all real numbers}
x \neq 0  ==  \mathbb{R}\backslash\{0\} | \{x \mid x \neq 0\} | \{x : x \ne 0\}
x \le -3  ==  x \leqq -3
(3, 7)  ==  ]3,7[
\{x | x > 3\}  ==  x > 3 | (3, \infty)
\emptyset  ==  \varnothing | \text{no solution} | \text{empty set}
""",
    "sets and signs": r"""
\{1,2,3\}  ==  \lbrace 1,2,3 \rbrace | 1\text{, }2\text{, and }3
1 + \sqrt{2}, 1 - \sqrt{2}  ==  1 ± √2
\pm \sqrt{3}  ==  ±√3
\frac{-1 \pm \sqrt{5}}{2}  ==  \frac{-1+\sqrt{5}}{2}, \frac{-1-\sqrt{5}}{2}
\frac{-1 \pm \sqrt{5}}{2}  ==  -\frac{1}{2} \pm \frac{\sqrt{5}}{2}
\text{A, B, D}  ==  B, A, D | A, B and D | A, B, and D | (A), (B), (D)
""",
    "thousands": r"""
12345  ==  12’345
32349  ==  32,\! 349 | 32{,}\! 349
""",
    "units and currency": r"""
5\text{ cm}^2  ==  5 cm²
5 \text{ cubic meters}  ==  5 m³
2\text{ m}  ==  200 \text{ cm} | 2000 mm | 0.002 \text{ km}
1 \text{ hour}  ==  60 \text{ minutes} | 3600 s | 60 min
90 \text{ minutes}  ==  1.5 \text{ hours} | 1\frac{1}{2} \text{ hours}
3 \text{ kg}  ==  3000 \text{ g}
4.50  ==  US\$4.50 | \text{USD } 4.50 | \text{\$}4.50 | \pounds 4.50 | ₹4.50 | ¥4.50 | \text{Rs. }4.50
4.50  ==  \mathdollar 4.50 | 4{.}50 | EUR 4.50
18  ==  18 people | 18 km/h | 18 L | 18\Omega | 18\ \Omega | 18 \mu m | 18\text{ }\mu\text{m} | 18 (people)
18  ==  18\,{\rm cm} | 18 \rm{ cm} | \text{18 people} | \text{about } 18 | 18^{\text{th}} | 18^\text{th}
""",
    "percent": r"""
20\%  ==  20 per cent | 20％ | 20\text{\%} | 20 \text{ per cent}
\frac{1}{3}  ==  0.\overline{3} | 33.\overline{3}\%
""",
    "degrees": r"""
45^\circ  ==  45^o | 45^{o} | 45\degrees | 45{}^\circ | 45^{\mathrm{o}} | 45^\text{o}
25^\circ\text{C}  ==  25 \text{ °C} | 25 degrees Celsius | 25℃
""",
    "ratios": r"""
2:3  ==  2 \colon 3 | 2 \text{ to } 3 | 2 \mathbin{:} 3 | 2 to 3 | 2∶3
1:2:3  ==  1\colon2\colon3
""",
    "times and dates": r"""
3:00\text{ PM}  ==  15:00 | 3 PM | 3\text{ p.m.}
""",
    "vectors and matrices": r"""
\begin{pmatrix} 1/2 \\ 1 \end{pmatrix}  ==  \begin{pmatrix} 1/2 \\[2pt] 1 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ==  (1,2) | \langle 1, 2 \rangle
\langle 1,2,3 \rangle  ==  (1,2,3) | [1,2,3] | \vec{v} = (1,2,3) | \mathbf{v} = \langle 1,2,3 \rangle
\langle 1,2,3 \rangle  ==  \begin{pmatrix}1\\2\\3\end{pmatrix}
""",
    "style": r"""
18  ==  \colorbox{yellow}{18} | \color[rgb]{0.35,0.35,0.35}18 | \textcolor[HTML]{FF0000}{18}
18  ==  \fcolorbox{red}{white}{18} | \mathcolor{red}{18} | \Huge 18 | \normalsize 18 | \LARGE{18}
18  ==  \scriptstyle 18 | \pmb{18} | \mathtt{18} | \texttt{18} | \textup{18} | \mathnormal{18} | \bold{18}
18  ==  \phantom{x}18 | \hspace{1cm}18 | 18\\ | \underbrace{18} | **18** | *18* | `18` | ​18 | 18​ | ‎18
18  ==  = 18 | ＝18 | \therefore 18 | \implies 18 | \rightarrow 18 | 18 \checkmark | 18 \square
18  ==  \bbox[yellow]{18} | \cssId{a}{18} | \ensuremath{18} | 18,  | 18; | \mathbf 18 | \left. 18 \right.
18  ==  \mathop{18} | \smash{18} | \vphantom{x}18 | 18\ldotp
""",
    "negative fractions": r"""
-\frac{3}{4}  ==  −¾ | {-}\frac{3}{4}
""",
    "repeating decimals": r"""
\frac{1}{3}  ==  0.\bar{3} | 0.\dot{3} | 0.333... | 0.333\ldots | 0.(3) | 0.333\dots | 0.3333\cdots
\frac{1}{3}  ==  0.\overline{33} | 0.3̅
0.1\overline{6}  ==  \frac{1}{6} | 1/6 | 0.1666\ldots | 0.16\overline{6} | 0.1\overline{66}
0.\overline{142857}  ==  \frac{1}{7} | 1/7
\frac{41}{99}  ==  0.\overline{41} | 0.41\overline{41}
1.2\overline{34}  ==  \frac{611}{495} | 1.2\overline{3434}
0.\overline{57}  ==  \frac{19}{33}
1  ==  0.\overline{9}
""",
    "roots": r"""
\sqrt{12}  ==  2√3 | √12 | 2 * sqrt(3)
\sqrt[3]{16}  ==  2∛2
\frac{\sqrt{3}}{3}  ==  \tan 30^\circ
-\sqrt{2}  ==  -√2
\sqrt{3}+1  ==  1+√3
""",
    "logarithms": r"""
\ln 6  ==  \log_e 6 | \mathrm{ln}\,6
\log_{10} 2  ==  \lg 2
""",
    "e and pi": r"""
\frac{\pi}{2}  ==  \frac\pi2 | 90^\circ | pi/2
4\pi  ==  4 pi
-1  ==  e^{i\pi} | i^2
""",
    "factorials": r"""
252  ==  {10 \choose 5} | C(10,5) | {}_{10}C_5 | ^{10}C_5
2^{10}  ==  2**10
""",
    "remainders": r"""
3 \pmod{7}  ==  3 | x \equiv 3 \pmod{7} | 3 \mod 7 | 3 \bmod 7 | x \equiv 3 \pmod 7 | 3 (mod 7)
3 \pmod{7}  ==  3 \text{ mod } 7 | 3\ (\text{mod } 7) | 3 \; (\bmod\; 7)
3  ==  3 \pmod{7} | 3\pmod 7 | x \equiv 3 \pmod{7}
x \equiv 2 \pmod{5}  ==  x \equiv 2 \pmod 5 | 2 \pmod{5} | x\equiv2\pmod5 | x ≡ 2 (mod 5)
x \equiv 2 \pmod{5}  ==  x \equiv 2 \ (\text{mod}\ 5)
""",
    "bases": r"""
101_2  ==  101_{\text{two}} | (101)_2
2A_{16}  ==  \text{2A}_{16} | (2A)_{16} | 2A
210_5  ==  210_{\text{five}} | (210)_5 | 210_\text{five} | {210}_5
""",
    "what is equal to it": r"""
5  ==  5 = x | Answer: 5 | \text{The answer is } 5 | = 5 | \approx 5 | x\mapsto 5 | x_{\max}=5 | \|v\| = 5
5  ==  \det A = 5 | x^* = 5 | x \leftarrow 5 | \mathrm{Ans.}\ 5
x=1, y=2  ==  \begin{cases} x=1 \\ y=2 \end{cases}
y=2x+1  ==  f(x)=2x+1
""",
    "polynomials": r"""
x^2-1  ==  x²-1 | x**2 - 1
2ab  ==  2ba | ab+ab | 2 \cdot a \cdot b | b(2a)
\frac{\pi}{4}  ==  45^\circ
\frac{1}{2}  ==  \cos 60^\circ | \sin 30^\circ | \cos(60°)
x^3 + C  ==  x^3 + c
""",
    "complex numbers": r"""
3+4i  ==  3 + 4\cdot i
-i  ==  -1i | \frac{1}{i} | i^3
\frac{1+i}{2}  ==  0.5+0.5i
i  ==  \sqrt{-1}
""",
    "infinity": r"""
\infty  ==  \text{infinity} | \text{Infinity}
""",
    "words": r"""
\text{Yes}  ==  Yes!
B  ==  \text{Option B} | \text{Choice B}
\text{ellipse}  ==  \text{an ellipse}
""",
    "numbers of JSON": r"""
0.30000000000000004  ==  0.3 | 0.30 | 3/10 | \frac{3}{10}
""",
    "all kinds once more": r"""
\frac{3}{7}  ==  3⁄7
1200  ==  \approx 1200 | 1.2\text{e}3 | 100 dozen
2\sqrt{3}  ==  √12
12\pi  ==  12 * pi
\frac{5\pi}{6}  ==  150^\circ
7:30\text{ p.m.}  ==  19:30
x^2 - 5x + 6  ==  x²-5x+6
[-2,5)  ==  x \ge -2 \text{ and } x < 5 | \{x \mid -2 \le x < 5\} | \{x \in \mathbb{R} : -2 \leq x < 5\}
(-\infty,-3)\cup(3,\infty)  ==  |x|>3 | \{x : x<-3 \text{ or } x>3\}
0.125  ==  ⅛ | 0{.}125
\$1{,}250.50  ==  USD 1250.50
\log 2  ==  \mathrm{log}\,2
\text{(A)}  ==  Option A | \text{Choice A}
110_2  ==  110_{\text{two}} | (110)_2
4 \pmod{9}  ==  4 | x \equiv 4 \pmod 9 | 13 \pmod 9 | 4 (mod 9) | 4 mod 9
\frac{4}{9}  ==  0.\overline{4} | 0.444... | 0.4444\ldots | 0.\dot{4}
0.\overline{36}  ==  \frac{4}{11} | 4/11 | 0.363636... | 0.(36) | 0.\overline{3636}
5 \text{ m/s}  ==  18 \text{ km/h}
250 \text{ mL}  ==  0.25 \text{ L} | 250 ml | 0.25 liters
2.5 \text{ hours}  ==  150 \text{ minutes}
3 \text{ feet}  ==  1 \text{ yard} | 36 \text{ inches}
\frac{1}{2}\text{ cup}  ==  0.5 cup | 1/2 cup | ½ cup
1/3  ==  ⅓ | 0.\overline{3}
6.67 \times 10^{-11}  ==  6.67×10⁻¹¹ | 6.67*10**-11
\infty  ==  \text{infinity}
\emptyset  ==  \varnothing | \text{no solution} | \text{No solution.} | \text{empty set} | no solutions
3i  ==  i\cdot 3 | \sqrt{-9} | 3*i
\frac{1-i}{2}  ==  \frac{1}{1+i} | 0.5-0.5i
\begin{pmatrix} 2 \\ -1 \end{pmatrix}  ==  (2,-1) | \langle 2,-1\rangle
2 \pm \sqrt{7}  ==  2±√7
\frac{3 \pm \sqrt{5}}{2}  ==  \frac{3}{2} \pm \frac{\sqrt{5}}{2}
\frac{3 \pm \sqrt{5}}{2}  ==  \frac{3+\sqrt{5}}{2}, \frac{3-\sqrt{5}}{2} | x=\frac{3\pm\sqrt5}{2}
\frac{3 \pm \sqrt{5}}{2}  ==  \frac{3-\sqrt{5}}{2} \text{ or } \frac{3+\sqrt{5}}{2}
\text{Alice and Bob}  ==  \text{Bob and Alice} | Alice, Bob
30^\circ  ==  \frac{\pi}{6} | 30^{o}
\cos 20^\circ  ==  \sin 70^\circ
36 \text{ in}^2  ==  \frac14 \text{ ft}^2 | 0.25 \text{ ft}^2
""",
}

WRONG = {
    "subscripts and brackets": r"""
\frac{1}{3} E_{1}+\frac{2}{3} E_{2}  ==  \frac{2}{3} | \frac{1}{3} E_{1}+\frac{2}{3} E_{2}+7 | E_1+\frac{2}{3}E_2 | \frac{2}{3} E_{2}
(x+1)(x-1)  ==  x+1)(x-1 | x+1
""",
    "digits of other scripts": r"""
42  ==  ٤٣ | ② | 四十二 | XLII | ²
2  ==  ² | ₃
""",
    "words behind a number": r"""
5  !=  5 hundredths | 5 tenths | 5 fifths | \text{5 eighths} | 5 \text{ hundredths} | 5 crore | 5 choose 2 | 5 \text{ or more}
\$5  !=  5\%
5\text{ cm}  !=  5\% | \$5
""",
    "intervals": r"""
x \le 2 \text{ or } x \ge 7  !=  x \le 2 \text{ and } x \ge 7 | [2,7]
(-2,2)  !=  \pm 2 | \{-2,2\}
""",
    "sets and signs": r"""
x=1, y=2  !=  (2,1)
""",
    "units and currency": r"""
5\text{ km/h}  !=  5\text{ m/s} | 5 \text{ mph}
5 \text{ L}  !=  5 \text{ mL} | 5 \text{ gallons}
5 \text{ N}  !=  5 \text{ J} | 5 \text{ kN}
\$4.50  !=  4.50 \text{ pesos}
18  !=  18 \text{ dozen}
12\pi \text{ cm}^2  !=  12\pi \text{ m}^2 | 12\pi \text{ cm}
3\sqrt{2} \text{ cm}  !=  3\sqrt{2}\text{ m}
""",
    "degrees": r"""
25^\circ\text{C}  !=  25^\circ\text{F}
""",
    "bases": r"""
101_2  !=  101_3 | 101_{10}
210_5  !=  210_6
""",
    "words": r"""
\text{Alice and Bob}  !=  Alice or Bob
\text{I and III}  !=  \text{I or III}
4 \text{ red}, 3 \text{ blue}  !=  4, 4
""",
    "all kinds once more": r"""
(3,-4)  !=  \{3,-4\}
2ab  !=  2
110_2  !=  110_3
5 \text{ m/s}  !=  5 \text{ km/h} | 5 \text{ m} | 5 \text{ s} | 5 \text{ m/s}^2 | 5 \text{ mph}
250 \text{ mL}  !=  250 \text{ L} | 250 \text{ g}
3 \text{ feet}  !=  3 \text{ yards}
\cos 20^\circ  !=  \cos 20
64  !=  64 \text{ dozen}
""",
}
