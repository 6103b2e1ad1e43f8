// The map: which split is predicted to be the best over links of each rate and delay.

const BESTS = {latency: "answers soonest", throughput: "brings most"};
const MAPPED = {rates: [0.1, 10000], delays: [0.1, 1000]};
const COMPARED = 1.2e6; // Splits for one map, over all of its links.
const SHADES = [[253, 231, 55], [188, 174, 108], [123, 122, 119], [60, 77, 110], [0, 34, 78]];
const map = {best: "latency"}; // What it shows, and what was last computed and drawn of it.

// The places of the splits that answer soonest and bring most; of two alike, the one better in the other.
function bestOver(scenario, rate, delay) {
  const parts = over(scenario, rate, delay), found = {latency: 0, throughput: 0};
  let soonest = [Infinity, 0], most = [Infinity, 0];
  scenario.splits.forEach((split, place) => {
    const latency = latencyOf(parts, split), throughput = throughputOf(parts, split, asked.window);
    const better = ([one, other]) => latency < one || latency === one && throughput > other;
    if (better(soonest)) [soonest, found.latency] = [[latency, throughput], place];
    if (throughput > most[1] || throughput === most[1] && latency < most[0]) {
      [most, found.throughput] = [[latency, throughput], place];
    }
  });
  return found;
}

// The middles of so many cells between two ends.
const spaced = ([low, high], count) => Array.from({length: count}, (_, place) => low * (high / low) ** ((place + 0.5) / count));

// Rows of the map from the least delay on; computed again only where another pipeline or window is asked for.
function mapped(scenario) {
  const key = `${asked.scenario} ${asked.window}`;
  if (map.key !== key) {
    const count = Math.round(Math.min(56, Math.max(12, Math.sqrt(COMPARED / scenario.splits.length))));
    Object.assign(map, {key, rates: spaced(MAPPED.rates, count), delays: spaced(MAPPED.delays, count)});
    map.cells = map.delays.map(delay => map.rates.map(rate => bestOver(scenario, rate, delay)));
  }
  return map.cells.map(row => row.map(cell => cell[map.best]));
}

function startMap() {
  byId("map-choice").append(choice("Shown is which split", Object.entries(BESTS), map.best, value => {
    map.best = value;
    drawMap();
  }));
}

function drawMap() {
  const scenario = data.scenarios[asked.scenario], width = Math.max(280, byId("map-plot").clientWidth);
  const now = [asked.scenario, asked.window, map.best, width].join();
  if (map.drawn !== now) {
    map.drawn = now;
    drawRegions(scenario, width);
  }
  map.marks.replaceChildren(...placesOn(map));
  byId("map-answer").textContent = changes(scenario);
}

function drawRegions(scenario, width) {
  const cells = mapped(scenario), used = [...new Set(cells.flat())].sort((a, b) => a - b);
  const shadeOf = new Map(used.map((split, place) => [split, shade((place + 0.5) / used.length)]));
  const height = width < 520 ? 300 : 400, box = {left: 62, right: width - 24, top: 12, bottom: height - 44};
  const across = logarithmic(MAPPED.rates, box.left, box.right), up = logarithmic(MAPPED.delays, box.bottom, box.top);
  const marks = draw("g");
  byId("map-plot").replaceChildren(draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Predicted: the split that ${BESTS[map.best]} over links of each rate and delay; the sentence above says where it changes`},
  ...regions(scenario, cells, shadeOf, box),
  ...axes(across, up, box, {across: ["Rate", "Mbit/s"], up: ["Delay, one way", "ms"]})
    .filter(element => element.getAttribute("class") !== "grid"), marks));
  Object.assign(map, {across, up, marks});
  byId("map-legend").replaceChildren(
    ...used.map(split => sign([draw("rect", {x: -9, y: -7, width: 18, height: 14, fill: css(shadeOf.get(split)), class: "region"})], scenario.names[split][0])),
    sign([draw("path", {d: "M-9 0h6m6 0h6M0-9v6m0 6v6", class: "cross"})], "where the sliders stand"),
    ...(data.whatif.links.length ? [sign([draw("circle", {r: 4.5, class: "link"})], "a link of this run, as asked")] : []));
}

function logarithmic([low, high], from, to) {
  const at = value => from + Math.log(Math.min(high, Math.max(low, value)) / low) / Math.log(high / low) * (to - from);
  return {at, logarithmic: true, ticks: powers(low, high, Math.round(Math.log10(high / low)))};
}

function shade(share) {
  const place = share * (SHADES.length - 1), low = Math.min(SHADES.length - 2, Math.floor(place));
  return SHADES[low].map((value, channel) => Math.round(value + (place - low) * (SHADES[low + 1][channel] - value)));
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const isPale = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 115;

// Runs of equal cells as rectangles, the borders between regions, and the names that fit.
function regions(scenario, cells, shadeOf, box) {
  const count = cells.length, wide = (box.right - box.left) / count, tall = (box.bottom - box.top) / count;
  // At whole pixels, so that no seams show.
  const left = column => Math.round(box.left + column * wide), top = row => Math.round(box.bottom - (row + 1) * tall);
  const found = [], names = new Map();
  let borders = "";
  cells.forEach((row, number) => {
    for (let start = 0, end; start < count; start = end) {
      for (end = start + 1; end < count && row[end] === row[start];) end++;
      const split = row[start], short = scenario.names[split][1];
      found.push(draw("rect", {x: left(start), y: top(number), width: left(end) - left(start),
        height: top(number - 1) - top(number), class: "cell", fill: css(shadeOf.get(split))}, draw("title", {}, scenario.names[split][0])));
      if (end < count) borders += `M${left(end)} ${top(number)}V${top(number - 1)}`;
      const deep = [-1, 1].every(step => [start, end - 1].every(column => (cells[number + step] || [])[column] === split));
      if (deep && (end - start) * wide > 6.6 * short.length + 12) {
        const places = names.get(split) || names.set(split, []).get(split);
        places.push({long: end - start, short, x: (left(start) + left(end)) / 2, y: top(number) + tall / 2 + 4});
      }
    }
    if (number) row.forEach((split, column) => {
      if (split !== cells[number - 1][column]) borders += `M${left(column)} ${top(number - 1)}H${left(column + 1)}`;
    });
  });
  found.push(draw("path", {class: "border", d: borders}));
  for (const [split, places] of names) {
    // In the middle of those that are about as long as the longest.
    const longest = Math.max(...places.map(place => place.long)), roomy = places.filter(place => place.long > 0.8 * longest);
    const {short, x, y} = roomy[Math.floor(roomy.length / 2)];
    found.push(draw("text", {class: `region-name ${isPale(shadeOf.get(split)) ? "on-pale" : "on-deep"}`,
      x, y, "text-anchor": "middle"}, short));
  }
  return found;
}

// The links of the run, and where the sliders stand.
function placesOn({across, up}) {
  const links = data.whatif.links.map(([name, rate, delay]) =>
    draw("circle", {class: "link", r: 4.5, cx: across.at(rate), cy: up.at(delay)}, draw("title", {}, name)));
  const [x, y] = [across.at(asked.rate), up.at(asked.delay)];
  const d = `M${x - 17} ${y}h10m14 0h10M${x} ${y - 17}v10m0 14v10`;
  return [...links, draw("path", {class: "cross under", d}), draw("path", {class: "cross", d})];
}

// Along the rates, at the delay that is asked for.
function changes(scenario) {
  const best = rate => bestOver(scenario, rate, asked.delay)[map.best], name = split => scenario.names[split][0];
  let split = best(map.rates[0]), before = map.rates[0];
  const told = [];
  for (const rate of map.rates.slice(1)) {
    while (split !== best(rate)) {
      let [low, high] = [before, rate];
      for (let step = 0; step < 14; step++) {
        const middle = Math.sqrt(low * high);
        if (best(middle) === split) low = middle; else high = middle;
      }
      told.push(`${name(split)} up to ${figure(high)} Mbit/s`);
      [split, before] = [best(high), high];
    }
    before = rate;
  }
  const last = told.length ? `${told.join(", ")}, and ${name(split)} above` : `${name(split)} over links of all rates`;
  return `With a delay of ${tickText(asked.delay)} ms each way, the split that ${BESTS[map.best]} would be ${last}.`;
}
