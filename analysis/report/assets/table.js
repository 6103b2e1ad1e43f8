// The table of the points that the filters leave.

const sorting = {column: "latency", falling: false};

function columnsOf(groups, shown) {
  const range = (point, name) => interval(point[`${name}_low`], point[`${name}_high`]);
  const columns = [
    {key: "position", title: "Split", of: point => point.position, cell: point => point.label, head: true},
    ...differing(groups).map(place => ({
      key: `facet-${place}`, title: data.facets[place].title,
      of: point => data.groups[point.group][place], cell: point => shortOf(point.group, place),
    })),
    {key: "latency", title: "Latency", unit: "ms", of: point => point.latency, cell: point => figure(point.latency), beside: point => range(point, "latency")},
    {key: "throughput", title: "Throughput", unit: "images/s", of: point => point.throughput, cell: point => figure(point.throughput), beside: point => range(point, "throughput")},
    {key: "front", title: "Front", of: point => known(point.probability) ? point.probability : point.front,
      cell: point => known(point.probability) ? share(point.probability) : point.status !== "ok" ? "–" : point.front ? "on" : "off"},
    {key: "payload", title: "Sends", of: point => point.payload, cell: point => bytes(point.payload)},
    {key: "energy", title: "Energy", unit: "J", of: point => point.energy, cell: point => figure(point.energy)},
    {key: "predicted_latency", title: "Predicted latency", unit: "ms", predicted: true, of: point => point.predicted_latency, cell: point => figure(point.predicted_latency)},
    {key: "predicted_throughput", title: "Predicted throughput", unit: "images/s", predicted: true, of: point => point.predicted_throughput, cell: point => figure(point.predicted_throughput)},
    {key: "status", title: "Note", of: noteOf, cell: noteOf},
  ];
  const optional = ["energy", "predicted_latency", "predicted_throughput"];
  return columns.filter(({key, of}) => !optional.includes(key) || shown.some(point => known(of(point))))
    .filter(({key}) => key !== "status" || shown.some(noteOf));
}

const noteOf = point => [point.status === "ok" ? null : point.status, ...marksOf(point)].filter(Boolean).join(", ");

function compare(of) {
  return (a, b) => {
    const [one, other] = [of(a), of(b)];
    if (!known(one) || !known(other)) return known(one) ? -1 : known(other) ? 1 : 0;
    const order = typeof one === "string" ? one.localeCompare(other) : one - other;
    return sorting.falling ? -order : order;
  };
}

function drawTable(groups, focused, picked, redrawn) {
  const shown = points.filter(point => groups.includes(point.group) && (!onlyFront || point.front));
  const columns = columnsOf(groups, shown);
  const by = columns.find(column => column.key === sorting.column) || columns[0];
  shown.sort(compare(by.of));
  const head = make("tr", {}, ...columns.map(column => {
    const button = make("button", {type: "button"}, column.title);
    button.addEventListener("click", () => {
      sorting.falling = sorting.column === column.key && !sorting.falling;
      sorting.column = column.key;
      redrawn(drawTable(groups, focused, picked, redrawn));
      byId("point-table").querySelector("[aria-sort] button").focus();
    });
    const order = column === by ? (sorting.falling ? "descending" : "ascending") : null;
    return make("th", {scope: "col", "aria-sort": order, class: classOf(column)}, button,
      column.unit ? make("small", {}, column.unit) : null);
  }));
  const rows = new Map(shown.map(point => [point, make("tr", {tabindex: "-1", class: point.front ? "on" : "off"},
    ...columns.map(column => make(column.head ? "th" : "td", {scope: column.head ? "row" : null, class: classOf(column)},
      column.cell(point), column.beside && column.beside(point) ? make("small", {}, column.beside(point)) : null)))]));
  for (const [point, row] of rows) {
    row.addEventListener("pointerenter", () => focused(point));
    row.addEventListener("focus", () => focused(point));
    row.addEventListener("click", () => picked(point));
  }
  const body = make("tbody", {}, ...rows.values());
  const listed = [...rows.values()];
  body.addEventListener("keydown", rove(listed, (key, place) =>
    ({ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: listed.length - 1})[key]));
  const count = `${shown.length} point${shown.length === 1 ? "" : "s"}`;
  byId("point-table").replaceChildren(make("table", {}, make("caption", {}, count), make("thead", {}, head), body));
  return rows;
}

const classOf = column => [
  ["position", "status"].includes(column.key) || column.key.startsWith("facet") ? null : "number",
  column.predicted ? "predicted" : null,
].filter(Boolean).join(" ") || null;
