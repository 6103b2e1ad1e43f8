// Bars: where the latency of each split went.

const SHOWN_BARS = 24;
const bar = {group: null, all: false};

function patternOf(look, place) {
  const strokes = {"/": "M-1 1L1-1M0 8L8 0M7 9L9 7", "\\": "M-1 7L1 9M0 0L8 8M7-1L9 1", "|": "M4 0V8", "-": "M0 4H8",
    "+": "M4 0V8M0 4H8", x: "M0 0L8 8M0 8L8 0", ".": "M2 2h1.4v1.4h-1.4zM6 6h1.4v1.4h-1.4z"};
  return draw("pattern", {id: `part-${place}`, width: 8, height: 8, patternUnits: "userSpaceOnUse"},
    draw("rect", {width: 8, height: 8, fill: look.fill}),
    look.hatch ? draw("path", {d: strokes[look.hatch], stroke: look.edge, "stroke-width": 1, fill: "none"}) : null);
}

const paint = place => data.parts[place].hatch ? `url(#part-${place})` : data.parts[place].fill;

// The parts of a bar are called by their hosts.
function partName(name, group) {
  const stage = /^stage (\d+) compute$/.exec(name);
  const host = stage && data.hosts[group][Number(stage[1])];
  return host ? `${name} (${host})` : name;
}

function drawBreakdown(groups) {
  if (!groups.includes(bar.group)) bar.group = groups[0];
  const places = differing(groups), form = byId("breakdown-choice");
  const again = () => drawBreakdown(groups);
  const own = points.filter(point => point.group === bar.group && point.parts.some(known))
    .sort((a, b) => a.position - b.position);
  form.replaceChildren();
  if (groups.length > 1) {
    form.append(choice("Case", groups.map(group => [group, titleOf(group, places)]), bar.group, value => {
      bar.group = Number(value);
      again();
    }));
  }
  if (own.length > SHOWN_BARS) {
    const box = make("input", {type: "checkbox"});
    box.checked = bar.all;
    box.addEventListener("change", () => { bar.all = box.checked; again(); });
    form.append(make("label", {class: "check"}, box, make("span", {}, `all ${own.length} splits, not only the front and single hosts`)));
  }
  const shown = own.length > SHOWN_BARS && !bar.all ? own.filter(point => point.front || known(point.sole)) : own;
  const used = data.parts.map((_, place) => place).filter(place => shown.some(point => point.parts[place] > 0));
  byId("breakdown-legend").replaceChildren(...used.map(place => make("li", {},
    draw("svg", {viewBox: "0 0 24 18", "aria-hidden": "true"}, draw("rect", {x: 1, y: 2, width: 22, height: 14, fill: paint(place), class: "part"})),
    partName(data.parts[place].name, bar.group))));
  byId("breakdown-plot").replaceChildren(shown.length ? barsOf(shown, used)
    : make("p", {class: "empty"}, "Nothing was measured here."));
  byId("breakdown-table").replaceChildren(partsTable(shown, used));
}

function barsOf(shown, used) {
  const host = byId("breakdown-plot"), width = Math.max(280, host.clientWidth), narrow = width < 620;
  const longest = Math.max(...shown.map(point => point.label.length));
  const left = narrow ? 0 : Math.min(260, 30 + 6.9 * longest), right = width - 58, row = narrow ? 38 : 25;
  const most = Math.max(...shown.map(point => Math.max(point.latency || 0, sum(point.parts))));
  const at = value => left + value / most * (right - left);
  const height = shown.length * row + 30;
  const picture = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Parts of the latency of each split; the table below has the figures"},
    draw("defs", {}, ...data.parts.map(patternOf)));
  for (const tick of steps(0, most, Math.max(2, Math.floor((right - left) / 90)))) {
    picture.append(draw("line", {class: "grid", x1: at(tick), x2: at(tick), y1: 0, y2: height - 24}),
      draw("text", {class: "tick", x: at(tick), y: height - 8, "text-anchor": "middle"}, `${tickText(tick)}${tick ? "" : " ms"}`));
  }
  shown.forEach((point, place) => {
    const top = place * row + (narrow ? 16 : 4), tall = narrow ? 16 : 17;
    const fits = narrow ? 60 : Math.floor((left - 28) / 6.7);
    const text = point.label.length > fits ? `${point.label.slice(0, fits - 1)}…` : point.label;
    picture.append(draw("text", {class: point.front ? "name" : "name pale", x: narrow ? 0 : left - 9, y: narrow ? top - 4 : top + 13,
      "text-anchor": narrow ? "start" : "end"}, `${point.front ? "● " : ""}${text}`));
    let done = 0;
    for (const part of used) {
      const value = point.parts[part] || 0;
      if (value > 0) picture.append(draw("rect", {class: "part", x: at(done), y: top, width: Math.max(0, at(done + value) - at(done)), height: tall, fill: paint(part)},
        draw("title", {}, `${partName(data.parts[part].name, point.group)}: ${figure(value)} ms`)));
      done += value;
    }
    if (known(point.latency)) picture.append(draw("line", {class: "median", x1: at(point.latency), x2: at(point.latency), y1: top - 2, y2: top + tall + 2}));
    picture.append(draw("text", {class: "tick value", x: at(Math.max(done, point.latency || 0)) + 6, y: top + 13}, figure(point.latency)));
  });
  return picture;
}

const sum = values => values.reduce((total, value) => total + (value || 0), 0);

function partsTable(shown, used) {
  const group = bar.group;
  return make("table", {}, make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "Split"),
    ...used.map(place => make("th", {scope: "col", class: "number"}, partName(data.parts[place].name, group), make("small", {}, " ms"))),
    make("th", {scope: "col", class: "number"}, "Latency", make("small", {}, " ms")))),
  make("tbody", {}, ...shown.map(point => make("tr", {}, make("th", {scope: "row"}, point.label),
    ...used.map(place => make("td", {class: "number"}, figure(point.parts[place]))),
    make("td", {class: "number"}, figure(point.latency))))));
}
