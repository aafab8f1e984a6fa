"""A picture of boxes, arrows, strokes, marks and texts, written as SVG by itself and as PNG by matplotlib."""
from __future__ import annotations

import io
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

__all__ = ["BOXES", "STROKES", "TEXTS", "Drawing", "stack"]

# kind of box -> (fill, line, corner radius, line width)
BOXES = {
    "operator": ("#eef4ff", "#4a72b8", 4, 1.2), "leaf": ("#e9f7ec", "#3f8f57", 12, 1.2),
    "module": ("#f4f1fa", "#8468b5", 6, 1.6), "module-open": ("none", "#8468b5", 6, 1),
    "repeat": ("#f4f1fa", "#8468b5", 6, 3), "repeat-open": ("none", "#8468b5", 6, 3),
    "bundle": ("#f6f6f6", "#888888", 6, 1.6), "bundle-open": ("none", "#888888", 6, 1),
    "plot": ("#fcfcfd", "#e3e6ea", 0, 1),
} | {"memory-" + owner: (color, color, 0, 0) for owner, color in {
    "parameters": "#4a72b8", "buffers": "#7fa3dc", "gradients": "#c0392b", "optimizer": "#8468b5", "saved": "#3f8f57",
    "inputs": "#2aa5a0", "flowing": "#e08a80", "tensors": "#d9a441", "records": "#7d6648", "workspace": "#9aa3ad",
    "rounding": "#c9ced6", "unknown": "#333333"}.items()}
# kind of text -> (colour, size, weight)
TEXTS = {
    "title": ("#222222", 13, "bold"), "name": ("#222222", 12, "bold"), "shape": ("#555555", 11, "normal"),
    "forward": ("#1f5fbf", 11, "normal"), "backward": ("#c0392b", 11, "normal"), "edge": ("#c0392b", 10, "normal"),
    "tick": ("#333333", 11, "normal"),
}
ANCHORS = {"start": "left", "middle": "center", "end": "right"}  # SVG's word and matplotlib's
ARROWS = {"forward": ("#1f5fbf", ""), "backward": ("#c0392b", "4 3")}
# kind of stroke or mark -> (colour, width, dashes); the series of charts add theirs
STROKES = {"axis": ("#666666", 1.2, ""), "grid": ("#e3e6ea", 1, ""), "limit": ("#c0392b", 1.2, "6 4")}


@dataclass
class Drawing:
    """Sizes in pixels, the origin at the top left."""

    width: float
    height: float
    boxes: list[tuple] = field(default_factory=list)
    arrows: list[tuple] = field(default_factory=list)
    texts: list[tuple] = field(default_factory=list)
    strokes: list[tuple] = field(default_factory=list)
    marks: list[tuple] = field(default_factory=list)

    def box(self, x, y, width, height, kind, tip=""):
        """A rectangle of one of the kinds in BOXES."""
        self.boxes.append((x, y, width, height, kind, tip))

    def arrow(self, x1, y1, x2, y2, kind, lane=None):
        """A curve from one point to another; where `lane` is given, most of it runs up or down at that x."""
        if lane is None:
            middle = (y2 - y1) * 0.45
            points = [(x1, y1), (x1, y1 + middle), (x2, y2 - middle), (x2, y2)]
        else:
            turn = min(26.0, abs(y2 - y1) / 3) * (1 if y2 > y1 else -1)
            points = [(x1, y1), (x1, y1 + turn), (lane, y1), (lane, y1 + turn)]
            points += [(lane, y1 + turn), (lane, y2 - turn), (lane, y2 - turn)]
            points += [(lane, y2), (x2, y2 - turn), (x2, y2)]
        self.arrows.append((points, kind))

    def line(self, x1, y1, x2, y2, kind):
        """A straight arrow."""
        third = ((x2 - x1) / 3, (y2 - y1) / 3)
        self.arrows.append(([(x1 + third[0] * k, y1 + third[1] * k) for k in range(4)], kind))

    def stroke(self, points, kind):
        """Straight lines through the points, of one of the kinds in STROKES."""
        self.strokes.append((points, kind))

    def mark(self, x, y, kind, tip=""):
        """A dot in the colour of a stroke."""
        self.marks.append((x, y, kind, tip))

    def put(self, other, x, y):
        """All of another picture, with its origin at (x, y)."""
        def moved(points):
            return [(px + x, py + y) for px, py in points]

        self.boxes += [(bx + x, by + y, *rest) for bx, by, *rest in other.boxes]
        self.arrows += [(moved(points), kind) for points, kind in other.arrows]
        self.texts += [(tx + x, ty + y, *rest) for tx, ty, *rest in other.texts]
        self.strokes += [(moved(points), kind) for points, kind in other.strokes]
        self.marks += [(mx + x, my + y, *rest) for mx, my, *rest in other.marks]

    def text(self, x, y, text, kind, anchor="start"):
        """A line of text whose baseline is at y; `anchor` as in SVG."""
        self.texts.append((x, y, text, kind, anchor))

    def frame(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) that holds everything, bent arrows too."""
        xs = [p[0] for points, _ in self.arrows for p in points]
        left, right = min([0, *(x - 8 for x in xs)]), max([self.width, *(x + 30 for x in xs)])
        return left, 0, right - left, self.height

    def svg(self) -> str:
        """The picture as an SVG document."""
        x, y, w, h = self.frame()
        out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h:.0f}" '
               f'viewBox="{x:.1f} {y:.1f} {w:.1f} {h:.1f}" font-family="DejaVu Sans, Verdana, sans-serif">', "<defs>"]
        used = {kind for _, kind in self.arrows}  # a page has several pictures, and each id once
        for kind in sorted(used):
            color, _ = ARROWS[kind]
            out.append(f'<marker id="{kind}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" '
                       f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{color}"/></marker>')
        out += ["</defs>", f'<rect x="{x:.1f}" y="0" width="{w:.1f}" height="{h:.1f}" fill="#ffffff"/>']
        for bx, by, bw, bh, kind, tip in self.boxes:
            fill, line, radius, stroke = BOXES[kind]
            title = f"<title>{escape(_printable(tip))}</title>" if tip else ""
            out.append(f'<rect class={quoteattr(kind)} x="{bx:.1f}" y="{by:.1f}" width="{bw:.1f}" height="{bh:.1f}" '
                       f'rx="{radius}" fill="{fill}" stroke="{line}" stroke-width="{stroke}">{title}</rect>')
        for points, kind in self.strokes:
            color, wide, dashes = STROKES[kind]
            dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
            out.append(f'<polyline points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in points)}" fill="none" '
                       f'stroke="{color}" stroke-width="{wide}" stroke-linejoin="round"{dashed}/>')
        for mx, my, kind, tip in self.marks:
            title = f"<title>{escape(_printable(tip))}</title>" if tip else ""
            out.append(f'<circle cx="{mx:.1f}" cy="{my:.1f}" r="3.2" fill="{STROKES[kind][0]}">{title}</circle>')
        for (start, *rest), kind in self.arrows:
            color, dashes = ARROWS[kind]
            curves = " ".join(f"{p[0]:.1f},{p[1]:.1f}" for p in rest)
            dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
            out.append(f'<path d="M{start[0]:.1f},{start[1]:.1f} C{curves}" fill="none" stroke="{color}" '
                       f'stroke-opacity="0.75"'
                       f'{dashed} marker-end="url(#{kind})"/>')
        for tx, ty, text, kind, anchor in self.texts:
            color, size, weight = TEXTS[kind]
            halo = ' paint-order="stroke" stroke="#ffffff" stroke-width="3"' if kind == "edge" else ""
            out.append(f'<text x="{tx:.1f}" y="{ty:.1f}" fill="{color}" font-size="{size}" font-weight="{weight}" '
                       f'text-anchor="{anchor}"{halo}>{escape(_printable(text))}</text>')
        return "\n".join([*out, "</svg>", ""])

    def png(self) -> bytes:
        """The picture as a PNG. Raises: ImportError without matplotlib."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
            from matplotlib.path import Path
        except ImportError as e:
            raise ImportError("[save] a .png needs matplotlib (pip install 'tinytorch-gpu[viz]'); .svg and .html need "
                              "nothing") from e
        x, y, w, h = self.frame()
        dpi = min(144.0, 144.0 * 20000 / max(w, h) / 1.5)  # matplotlib draws up to 65536 pixels
        figure = Figure(figsize=(w / 96, h / 96), dpi=dpi)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(x, x + w)
        axes.set_ylim(h, y)
        axes.axis("off")
        for bx, by, bw, bh, kind, _ in self.boxes:
            fill, line, radius, stroke = BOXES[kind]
            # no add_patch: it would fit the axes to each box again, half the time of a picture of 1,000 boxes
            axes.add_artist(FancyBboxPatch((bx, by), bw, bh, boxstyle=f"round,pad=0,rounding_size={radius}",
                                           facecolor=fill, edgecolor=line, linewidth=stroke * 0.75))
        for points, kind in self.strokes:
            color, wide, dashes = STROKES[kind]
            axes.plot(*zip(*points), color=color, linewidth=wide * 0.75, linestyle="--" if dashes else "-")
        for mx, my, kind, _ in self.marks:
            axes.plot([mx], [my], color=STROKES[kind][0], marker="o", markersize=4.8, markeredgewidth=0)
        for points, kind in self.arrows:
            color, dashes = ARROWS[kind]
            path = Path(points, [Path.MOVETO] + [Path.CURVE4] * (len(points) - 1))
            axes.add_artist(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, color=color, linewidth=0.75,
                                            alpha=0.75, linestyle="--" if dashes else "-"))
        for tx, ty, text, kind, anchor in self.texts:
            color, size, weight = TEXTS[kind]
            axes.text(tx, ty, _printable(text).replace("$", r"\$"), color=color, fontsize=size * 0.75,
                      fontweight=weight, va="baseline", ha=ANCHORS[anchor])
        out = io.BytesIO()
        FigureCanvasAgg(figure).print_png(out)
        return out.getvalue()


def _printable(text) -> str:
    """Without the control characters that XML forbids."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def stack(*drawings: Drawing, gap: float = 18) -> Drawing:
    """Pictures one below the other."""
    whole = Drawing(max(d.width for d in drawings), 0)
    for drawing in drawings:
        whole.put(drawing, 0, whole.height)
        whole.height += drawing.height + gap
    whole.height -= gap
    return whole
