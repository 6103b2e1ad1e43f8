// Latency under offered load.

const drawLoad = data.load ? perCase("load", rowsOf(data.load), row => row.point.group, rows => {
  const splits = [...new Set(rows.map(row => row.point))];
  const series = splits.map((point, place) => ({
    ...lookOf(place), name: point.label,
    marks: rows.filter(row => row.point === point).map(row => ({
      x: row.offered, y: row.median, hollow: row.beyond, struck: row.disturbed,
      told: `${point.label}: ${figure(row.median)} ms at ${figure(row.offered)} images/s`,
    })),
  }));
  lines(byId("load-plot"), series, {
    called: "Latency against offered load; the table below has the figures",
    titles: {across: ["Offered load", "images/s"], up: ["Latency under load", "ms; median"]},
    from: [0],
  });
  const some = (test, content, text) => rows.some(test) ? [sign(content, text)] : [];
  byId("load-legend").replaceChildren(...series.map(lineSign),
    ...some(row => row.beyond, [draw("circle", {r: 4, class: "key open"})], "beyond the knee"),
    ...some(row => row.disturbed, [draw("path", {d: "M-6 8L6-8", class: "struck"})], "host disturbed"));
  const kept = rows.filter(row => row.beyond === 0 && known(row.offered));
  const most = kept.reduce((best, row) => !best || row.offered > best.offered ? row : best, null);
  byId("load-answer").replaceChildren(...(most ? ["Of the rates that were offered, the highest before the knee is ",
    make("b", {}, `${figure(most.offered)} images/s`), ", with ", make("b", {}, most.point.label),
    ` (${figure(most.median)} ms).`] : ["No rate that was offered is known to be before the knee."]));
  byId("load-table").replaceChildren(tableOf([
    {title: "Split", of: row => row.point.label, head: true},
    {title: "Offered", unit: "images/s", of: row => figure(row.offered)},
    {title: "Completed", unit: "images/s", of: row => figure(row.achieved)},
    {title: "Median", unit: "ms", of: row => figure(row.median)},
    {title: "90th percentile", unit: "ms", of: row => figure(row.p90)},
    {title: "Note", words: true, of: row => [row.beyond ? "beyond the knee" : known(row.beyond) ? null : "too few items to tell",
      row.disturbed ? "disturbed" : null].filter(Boolean).join(", ")},
  ], rows));
}) : () => {};
