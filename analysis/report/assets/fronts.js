// The filters, and the plot of what they leave.

const filters = data.facets.map((facet, place) => place === data.coloured ? -1 : data.groups[0][place]);
let onlyFront = false;

// Groups that the filters leave; `beside` are facets whose filter does not count.
const chosen = (beside = []) => data.groups.map((_, group) => group).filter(group =>
  filters.every((value, place) => value < 0 || beside.includes(place) || data.groups[group][place] === value));

function drawFilters(changed) {
  const form = byId("filters");
  const several = data.facets.map((facet, place) => [facet, place]).filter(([facet]) => facet.values.length > 1);
  for (const [facet, place] of several) {
    const options = [[-1, "all"], ...facet.values.map((text, value) => [value, text])];
    form.append(choice(facet.title, options, filters[place], value => {
      filters[place] = Number(value);
      changed();
    }));
  }
  const box = make("input", {type: "checkbox", id: "only-front"});
  box.addEventListener("change", () => { onlyFront = box.checked; changed(); });
  form.append(make("label", {class: "check"}, box, make("span", {}, "only the front")));
  form.addEventListener("submit", event => event.preventDefault());
}

const colourOf = place => data.colours[place % data.colours.length];

function drawFronts(groups, picked) {
  const places = differing(groups);
  const series = groups.map((group, place) => ({
    group,
    name: titleOf(group, places),
    colour: colourOf(place),
    dash: DASHES[Math.floor(place / data.colours.length) % DASHES.length],
    marks: points.filter(point => point.group === group && (!onlyFront || point.front))
      .map(placed).filter(mark => known(mark.x) && known(mark.y)),
  }));
  drawLegend(series, places.length > 0);
  return plot(byId("front-plot"), series, {
    called: "Fronts: latency against throughput",
    picked,
    told: mark => describe(mark, places),
  });
}

// What is said of a mark: its name first.
function describe({point, predicted}, places) {
  const rows = [["", point.label], ...places.map(place => [data.facets[place].title, shortOf(point.group, place)])];
  if (predicted) {
    return [...rows, ["Status", `${point.status}, not measured`],
      ["Predicted latency", `${figure(point.predicted_latency)} ms`],
      ["Predicted throughput", `${figure(point.predicted_throughput)} images/s`]];
  }
  for (const [title, name, unit] of [["Latency", "latency", "ms"], ["Throughput", "throughput", "images/s"]]) {
    rows.push([title, `${figure(point[name])} ${unit}`]);
    const range = interval(point[`${name}_low`], point[`${name}_high`]);
    if (range) rows.push(["95 %", range]);
  }
  if (known(point.probability)) {
    rows.push(["On the front", `${share(point.probability)} probable`]);
    if (point.further) rows.push(["To tell", `about ${point.further} more replicates`]);
  } else {
    rows.push(["On the front", point.front ? "yes, by the means" : "no, by the means"]);
  }
  rows.push(["Sends", bytes(point.payload)]);
  if (known(point.energy)) rows.push(["Energy", `${figure(point.energy)} J per image`]);
  if (point.error) rows.push(["Output off by", `${figure(100 * point.error)} %`]);
  const marks = marksOf(point);
  if (marks.length) rows.push(["Doubt", marks.join(", ")]);
  return rows;
}

const marksOf = point => [
  point.uncertified && "link not as asked", point.disturbed && "disturbed", point.late && "relay late",
].filter(Boolean);

function drawLegend(series, several) {
  const grey = "var(--muted)", shown = series.flatMap(each => each.marks.map(mark => mark.point));
  const entries = several ? series.map(lineSign) : [];
  const hosts = new Map();
  for (const {group} of series) for (const [rank, host] of data.hosts[group].entries()) {
    hosts.set(rank, (hosts.get(rank) || new Set()).add(host));
  }
  for (const [rank, named] of hosts) if (shown.some(point => point.sole === rank)) {
    entries.push(sign([draw("path", {d: SHAPES[1 + rank % 4], class: "key"})], `all on ${[...named].join(" or ")}`));
  }
  const keys = [
    [() => true, [draw("circle", {r: 5.5, class: "key"})], "on the front"],
    [point => !point.front, [draw("circle", {r: 3.5, class: "key pale"})], "off it"],
    [point => point.disturbed, [draw("path", {d: "M-6 8L6-8", class: "struck"})], "host disturbed"],
    [point => point.uncertified, [draw("circle", {r: 5, class: "key open"}), draw("path", {d: "M-4-4L4 4M4-4L-4 4", class: "struck"})], "link not as asked for"],
    [point => point.status !== "ok", [draw("circle", {r: 5, class: "key open dashed"})], "not measured: predicted"],
    [point => point.front && known(point.latency_low), [draw("path", {d: "M-9 0H9M0-8V8", class: "interval key"})], "95 % for both together"],
  ];
  for (const [asked, content, text] of keys) if (shown.some(asked)) entries.push(sign(content, text));
  byId("front-legend").replaceChildren(...entries);
}
