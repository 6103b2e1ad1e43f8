// Latency and throughput along the trace that a link follows.

const TRACED = {latency: {title: "Latency", unit: "ms"}, throughput: {title: "Throughput", unit: "images/s"}};
let along = "latency";

const tracedRows = () => data.segments.rows.map(([point, part, latency, throughput]) =>
  ({point: points[point], part: data.segments.parts[part], latency, throughput}));

const drawSegments = data.segments ? perCase("segments", tracedRows(), row => row.point.group, (rows, group) => {
  const splits = [...new Set(rows.map(row => row.point))], {title, unit} = TRACED[along];
  const series = splits.map((point, place) => ({
    ...lookOf(place), name: point.label,
    marks: rows.filter(row => row.point === point).map(({part, [along]: value}) => ({
      x: part.start, end: part.start + part.duration, y: value, plain: true,
      told: `${point.label}, segment ${part.number}: ${figure(value)} ${unit}`,
    })),
  }));
  const quantities = Object.entries(TRACED).map(([name, each]) => [name, each.title]);
  if (!byId("segments-what").childElementCount) {
    byId("segments-what").append(choice("Along the trace", quantities, along, value => {
      along = value;
      drawSegments(chosen());
    }));
  }
  lines(byId("segments-plot"), series, {
    called: `${title} in each segment of the trace; the table below has the segments`,
    titles: {across: ["Time from the beginning of the trace", "s"], up: [title, unit]},
    from: [0], join: "spans",
  });
  byId("segments-legend").replaceChildren(...series.map(lineSign));
  const best = data.segments.best.filter(([of]) => of === group);
  const part = ([, place]) => data.segments.parts[place];
  const named = place => known(place) ? points[place].label : "–";
  byId("segments-table").replaceChildren(tableOf([
    {title: "Segment", of: row => part(row).number, head: true},
    {title: "From", unit: "s", of: row => figure(part(row).start)},
    {title: "Lasts", unit: "s", of: row => figure(part(row).duration)},
    {title: "Asked", of: row => part(row).asked, words: true},
    {title: "Round trip", unit: "ms", of: row => figure(part(row).round_trip)},
    {title: "Goodput", unit: "Mbit/s", of: row => figure(part(row).goodput)},
    {title: "Answers soonest", of: row => named(row[2]), words: true},
    {title: "Brings most", of: row => named(row[3]), words: true},
  ], best));
}) : () => {};
