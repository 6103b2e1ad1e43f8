// Plots of lines, of one case at a time: load, segments of a trace, surfaces.

const lookOf = place => ({
  colour: colourOf(place),
  dash: DASHES[Math.floor(place / data.colours.length) % DASHES.length],
});

// An entry of a legend.
const sign = (content, text) =>
  make("li", {}, draw("svg", {viewBox: "-12 -9 24 18", "aria-hidden": "true"}, ...content), text);

const lineSign = ({colour, dash, name}) =>
  sign([draw("path", {d: "M-12 0H12", stroke: colour, "stroke-width": 3, "stroke-dasharray": dash})], name);

// How the marks of a line are joined: straight, as a staircase, or each by itself until its `end`.
const JOINS = {
  straight: (at, before) => before ? `L${at.x} ${at.y}` : `M${at.x} ${at.y}`,
  stairs: (at, before) => before ? `H${at.x}V${at.y}` : `M${at.x} ${at.y}`,
  spans: (at, before) => (before && before.end === at.x ? `V${at.y}` : `M${at.x} ${at.y}`) + `H${at.end}`,
};

// `series`: name, colour, dash and marks (x, y, told and, where it has them, end, hollow, struck) of each.
// `area` makes of the places of all series what is filled behind them.
function lines(host, series, {called, titles, join = "straight", from = [], area = null}) {
  const shown = series.map(each => ({...each, marks: each.marks.filter(mark => known(mark.x) && known(mark.y))}));
  const marks = shown.flatMap(each => each.marks);
  if (!marks.length) {
    host.replaceChildren(make("p", {class: "empty"}, "Nothing was measured here."));
    return;
  }
  const width = Math.max(280, host.clientWidth), height = width < 520 ? 280 : 360;
  const box = {right: width - 12, top: 12, bottom: height - 44};
  const up = scale(marks.map(mark => mark.y), box.bottom, box.top);
  // The title of the axis stands beside the longest of its figures.
  box.left = 34 + 6.6 * Math.max(...up.ticks.map(tick => tickText(tick).length));
  const across = scale([...from, ...marks.flatMap(mark => known(mark.end) ? [mark.x, mark.end] : [mark.x])], box.left, box.right);
  const placed = (value, axis) => Number(axis.at(value).toFixed(1));
  const places = shown.map(each => each.marks.map(mark =>
    ({x: placed(mark.x, across), y: placed(mark.y, up), end: known(mark.end) ? placed(mark.end, across) : null})));
  const picture = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": called});
  picture.append(...axes(across, up, box, titles));
  if (area) picture.append(draw("path", {class: "area", d: area(places)}));
  for (const [number, each] of shown.entries()) {
    const path = places[number].map((at, order) => JOINS[join](at, places[number][order - 1])).join("");
    picture.append(draw("path", {class: "front", d: path, stroke: each.colour, "stroke-dasharray": each.dash},
      draw("title", {}, each.name)));
    for (const [order, mark] of each.marks.entries()) picture.append(dot(mark, places[number][order], each));
  }
  host.replaceChildren(picture);
}

function dot(mark, at, {colour}) {
  const middle = known(at.end) ? (at.x + at.end) / 2 : at.x;
  return draw("g", {class: "dot", transform: `translate(${middle} ${at.y})`},
    draw("circle", {class: "reach", r: 9}),
    mark.plain ? null : draw("circle", {r: 3.5, stroke: colour, "stroke-width": 1.6, fill: mark.hollow ? "var(--paper)" : colour}),
    mark.struck ? draw("path", {class: "struck", d: "M-6 8L6-8"}) : null,
    draw("title", {}, mark.told));
}

// A section that shows one case at a time, of those groups of which it has rows: draws one's rows.
function perCase(name, rows, groupOf, drawn) {
  const has = new Set(rows.map(groupOf)), form = byId(`${name}-choice`);
  let group = null, offered = null;
  function show(groups) {
    const places = differing(groups);
    byId(`${name}-case`).textContent = places.length ? `Shown: ${titleOf(group, places)}.` : "";
    drawn(rows.filter(row => groupOf(row) === group), group);
  }
  return groups => {
    const own = groups.filter(each => has.has(each));
    byId(`${name}-none`).hidden = own.length > 0;
    byId(`${name}-shown`).hidden = !own.length;
    if (!own.includes(group)) group = own.length ? own[0] : null;
    // The choice is made anew only where there is another one, so that it keeps its focus.
    if (offered !== own.join()) {
      offered = own.join();
      const options = own.map(each => [each, titleOf(each, differing(own))]);
      form.replaceChildren(...(own.length > 1 ? [choice("Case", options, group, value => {
        group = Number(value);
        show(own);
      })] : []));
    }
    if (own.length) show(own);
  };
}

// A table of some columns: title, unit, what a row has there, and whether that is its head or a number.
function tableOf(columns, rows) {
  const classOf = column => column.head || column.words ? null : "number";
  return make("table", {}, make("thead", {}, make("tr", {}, ...columns.map(column =>
    make("th", {scope: "col", class: classOf(column)}, column.title, column.unit ? make("small", {}, column.unit) : null)))),
  make("tbody", {}, ...rows.map(row => make("tr", {}, ...columns.map(column =>
    make(column.head ? "th" : "td", {scope: column.head ? "row" : null, class: classOf(column)}, column.of(row)))))));
}
