// How far a front moves from one replicate to the next.

const drawAttainment = data.attainment.length ? perCase("attainment", data.attainment, row => row.group, ([row]) => {
  const levels = [["best", "2 3", "one replicate attained it"], ["median", null, "half of them did"],
    ["worst", "7 3", `all ${row.replicates} did`]];
  const series = levels.map(([level, dash, name]) => ({
    name, dash, colour: "var(--pays)",
    marks: row[level].map(([x, y]) => ({x, y, plain: true, told: `${figure(x)} ms and ${figure(y)} images/s: ${name}`})),
  }));
  lines(byId("attainment-plot"), series, {
    called: "What one, half and all of the replicates attained",
    titles: {across: ["Response latency", "ms", "; less is better"], up: ["Throughput", "images/s", "; more is better"]},
    join: "stairs", area: between,
  });
  const area = sign([draw("rect", {x: -12, y: -7, width: 24, height: 14, class: "area"})], "some did, and others did not");
  byId("attainment-legend").replaceChildren(...series.map(lineSign), area);
  const [best, worst] = [row.best, row.worst];
  byId("attainment-answer").textContent = `Over ${row.replicates} replicates the soonest answer took `
    + `${interval(best[0][0], worst[0][0])} ms, and the most that was brought was ${interval(worst.at(-1)[1], best.at(-1)[1])} images/s.`;
}) : () => {};

// From the staircase of what one replicate attained back along that of what all did.
function between([best, , worst]) {
  const right = Math.max(best.at(-1).x, worst.at(-1).x), lowest = Math.max(best[0].y, worst[0].y);
  const there = best.map((at, place) => JOINS.stairs(at, best[place - 1])).join("");
  const back = worst.map(at => `V${at.y}H${at.x}`).reverse().join("");
  return `${there}H${right}${back}V${lowest}H${best[0].x}Z`;
}
