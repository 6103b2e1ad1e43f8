// A plot of latency and throughput, measured or predicted.

const DASHES = [null, "7 3", "2 3", "9 3 2 3"];
const SHAPES = [null, "M-5-5H5V5H-5Z", "M0-6.5L6.5 0 0 6.5-6.5 0Z", "M-6 5L0-6.5 6 5Z", "M-6-5L0 6.5 6-5Z"];
const LABELLED = 40;

// Whose place is its own figures, else those predicted for it.
function placed(point) {
  const own = known(point.latency) && known(point.throughput);
  return own
    ? {point, x: point.latency, y: point.throughput, predicted: false}
    : {point, x: point.predicted_latency, y: point.predicted_throughput, predicted: true};
}

// `series`: colour, dash, name and marks (x, y, point, predicted) of each; `told` makes what is said of a mark.
function plot(host, series, {told, picked, predicted, called}) {
  host.replaceChildren();
  const marks = series.flatMap(each => each.marks);
  if (!marks.length) {
    host.append(make("p", {class: "empty"}, "No point here has both a latency and a throughput."));
    return {show() {}};
  }
  const width = Math.max(280, host.clientWidth), height = width < 520 ? 330 : 430;
  const ends = (...names) => marks.filter(({point}) => point.front).flatMap(({point}) => names.map(name => point[name])).filter(known);
  const box = {left: 52, right: width - 12, top: 12, bottom: height - 44};
  const heights = [...marks.map(mark => mark.y), ...ends("throughput_low", "throughput_high")];
  const up = scale(heights, box.bottom, box.top);
  // The title of the axis stands beside the longest of its figures.
  box.left = 34 + 6.6 * Math.max(...up.ticks.map(tick => tickText(tick).length));
  const across = scale([...marks.map(mark => mark.x), ...ends("latency_low", "latency_high")], box.left, box.right);
  const picture = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": called});
  picture.append(...axes(across, up, box, {
    across: [`${predicted ? "Predicted response" : "Response"} latency`, "ms", "; less is better"],
    up: [predicted ? "Predicted throughput" : "Throughput", "images/s", "; more is better"],
  }));
  for (const each of series) picture.append(...line(each, across, up, predicted), ...bars(each, across, up));
  const tip = make("div", {class: "tip", "aria-hidden": "true"});
  const halo = draw("circle", {class: "halo", r: 11, visibility: "hidden"});
  picture.append(halo);
  const nodes = new Map();
  const colours = new Map(series.flatMap(each => each.marks.map(mark => [mark, each.colour])));
  const order = [...marks].sort((a, b) => (a.point.front || 0) - (b.point.front || 0));
  for (const mark of order) {
    const node = symbol(mark, colours.get(mark), across.at(mark.x), up.at(mark.y), predicted);
    node.setAttribute("aria-label", told(mark).map(([name, value]) => name ? `${name} ${value}` : value).join(", "));
    node.addEventListener("pointerenter", () => show(mark.point));
    node.addEventListener("focus", () => show(mark.point));
    node.addEventListener("click", () => picked(mark.point));
    node.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); picked(mark.point); }
    });
    nodes.set(mark.point, {node, mark});
    picture.append(node);
  }
  picture.append(...labels(marks, across, up, box, series.length < 3));
  const ordered = [...marks].sort((a, b) => a.x - b.x || a.y - b.y);
  const fronts = ordered.map((mark, place) => mark.point.front ? place : -1).filter(place => place >= 0);
  picture.addEventListener("keydown", rove(ordered.map(mark => nodes.get(mark.point).node), (key, place) => ({
    ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: ordered.length - 1,
    ArrowUp: fronts.find(other => other > place), ArrowDown: fronts.findLast(other => other < place),
  })[key]));
  const area = make("div", {}, picture, tip);
  area.addEventListener("pointerleave", hide);
  // Not at the picture: Chromium lets Tab stop at an SVG element that listens for focus.
  area.addEventListener("focusout", hide);
  function hide() { tip.classList.remove("shown"); halo.setAttribute("visibility", "hidden"); }
  function show(point) {
    const found = nodes.get(point);
    if (!found) return hide();
    const [x, y] = [across.at(found.mark.x), up.at(found.mark.y)];
    halo.setAttribute("cx", x);
    halo.setAttribute("cy", y);
    halo.setAttribute("visibility", "visible");
    const [[, title], ...rows] = told(found.mark);
    tip.replaceChildren(make("b", {}, title), make("dl", {}, ...rows.flatMap(([name, value]) =>
      [make("dt", {}, name), make("dd", {}, value)])));
    const ratio = host.clientWidth / width;
    tip.style.left = x > width / 2 ? "auto" : `${(x + 14) * ratio}px`;
    tip.style.right = x > width / 2 ? `${(width - x + 14) * ratio}px` : "auto";
    tip.style.top = y > height / 2 ? "auto" : `${y * ratio}px`;
    tip.style.bottom = y > height / 2 ? `${host.clientHeight - y * ratio}px` : "auto";
    tip.classList.add("shown");
  }
  host.append(area);
  return {show};
}

// `titles` of both axes: what it is, its unit, and what is added where there is room.
function axes(across, up, box, titles) {
  const found = [];
  const text = (attributes, words) => draw("text", attributes, words);
  for (const tick of across.ticks) {
    const x = across.at(tick);
    found.push(draw("line", {class: "grid", x1: x, x2: x, y1: box.top, y2: box.bottom}));
    found.push(text({class: "tick", x, y: box.bottom + 16, "text-anchor": "middle"}, tickText(tick)));
  }
  for (const tick of up.ticks) {
    const y = up.at(tick);
    found.push(draw("line", {class: "grid", x1: box.left, x2: box.right, y1: y, y2: y}));
    found.push(text({class: "tick", x: box.left - 7, y: y + 4, "text-anchor": "end"}, tickText(tick)));
  }
  const title = ([what, unit, better = ""], axis) =>
    `${what} (${unit}${axis.logarithmic ? ", log" : ""})${box.right > 420 ? better : ""}`;
  found.push(text({class: "axis", x: box.right, y: box.bottom + 36, "text-anchor": "end"}, title(titles.across, across)));
  const middle = (box.top + box.bottom) / 2;
  found.push(text({class: "axis", "text-anchor": "middle", transform: `translate(13 ${middle}) rotate(-90)`}, title(titles.up, up)));
  return found;
}

// The front as a staircase: what it beats lies below and to the right of it.
function line({marks, colour, dash}, across, up, predicted) {
  const front = marks.filter(mark => mark.point.front && !mark.predicted).sort((a, b) => a.x - b.x);
  if (!front.length) return [];
  const path = front.map((mark, place) => place
    ? `H${across.at(mark.x).toFixed(1)}V${up.at(mark.y).toFixed(1)}`
    : `M${across.at(mark.x).toFixed(1)} ${up.at(mark.y).toFixed(1)}`).join("");
  return [draw("path", {class: "front", d: path, stroke: colour, "stroke-dasharray": predicted ? "3 4" : dash})];
}

function symbol(mark, colour, x, y, predicted) {
  const {point} = mark, front = point.front && !mark.predicted;
  const kind = ["mark", front ? "on" : "off", (mark.predicted || predicted) && "predicted",
    point.uncertified && "uncertified"].filter(Boolean).join(" ");
  const node = draw("g", {class: kind, tabindex: "-1", role: "img", transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`});
  node.append(draw("circle", {class: "reach", r: 10}));
  const look = mark.predicted || point.uncertified || predicted && !front
    ? {fill: "none", stroke: colour} : {fill: colour, stroke: "none"};
  const shape = SHAPES[point.sole === null || point.sole === undefined ? 0 : 1 + point.sole % 4];
  node.append(shape ? draw("path", {d: shape, ...look, transform: front ? null : "scale(.75)"})
    : draw("circle", {r: front ? 5.5 : 3.5, ...look}));
  if (point.uncertified) node.append(draw("path", {class: "struck", d: "M-5-5L5 5M5-5L-5 5", stroke: colour}));
  if (point.disturbed) node.append(draw("path", {class: "struck", d: "M-6 8L6-8"}));
  return node;
}

// Intervals that hold for both figures together.
function bars(each, across, up) {
  return each.marks.filter(({point}) => point.front && known(point.latency_low)).map(({x, y, point}) =>
    draw("path", {class: "interval", stroke: each.colour, d:
      `M${across.at(point.latency_low)} ${up.at(y)}H${across.at(point.latency_high)}`
      + `M${across.at(x)} ${up.at(point.throughput_low)}V${up.at(point.throughput_high)}`}));
}

// Names of marks on a front, and of those at which one host computes all, where there is room.
function labels(marks, across, up, box, few) {
  const fronts = marks.filter(mark => mark.point.front), at = mark => [across.at(mark.x), up.at(mark.y)];
  const taken = fronts.map(mark => around(...at(mark), 6, 6));
  const wanted = marks.filter(mark => mark.point.front || few && known(mark.point.sole));
  wanted.sort((a, b) => (b.point.front || 0) - (a.point.front || 0) || a.x - b.x);
  const found = [];
  for (const mark of wanted.slice(0, LABELLED)) {
    const [x, y] = at(mark), half = 3.1 * mark.point.short.length + 2;
    const places = [[half + 9, 0], [-half - 9, 0], [0, -14], [0, 15], [half + 6, -11], [half + 6, 12],
      [-half - 6, -11], [-half - 6, 12], [half - 6, -15], [half - 6, 17], [6 - half, -15], [6 - half, 17]];
    const place = places.map(([dx, dy]) => around(x + dx, y + dy, half, 6)).find(area =>
      area.left > box.left && area.right < box.right && area.top > 0 && area.bottom < box.bottom
      && !taken.some(other => overlap(area, other))
      && !fronts.some(other => other !== mark && distance(area, at(other)) < distance(area, at(mark)) + 2));
    if (!place) continue;
    taken.push(place);
    found.push(draw("text", {class: mark.point.front ? "name" : "name pale", "text-anchor": "middle",
      x: (place.left + place.right) / 2, y: place.bottom - 2}, mark.point.short));
  }
  return found;
}

const around = (x, y, half, tall) => ({left: x - half, right: x + half, top: y - tall, bottom: y + tall});
const distance = (area, [x, y]) => Math.hypot(
  Math.max(area.left - x, x - area.right, 0), Math.max(area.top - y, y - area.bottom, 0));
const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
