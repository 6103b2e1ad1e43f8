// Sliders: what the fronts would be over another link, predicted.

const LEADS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
const RATES = [-1, 0, 1, 2, 3].flatMap(power => LEADS.map(lead => Number((lead * 10 ** power).toPrecision(2)))).concat(10000);
const DELAYS = [0, ...[-1, 0, 1, 2].flatMap(power => LEADS.map(lead => Number((lead * 10 ** power).toPrecision(2)))), 1000];
const asked = {scenario: 0, rate: 20, delay: 10, window: 3};
const nearest = (steps, value) => steps.reduce((best, step, place) =>
  Math.abs(step - value) < Math.abs(steps[best] - value) ? place : best, 0);

function slider(title, name, steps, unit, changed) {
  const id = `whatif-${name}`, output = make("output", {for: id});
  const range = make("input", {type: "range", id, min: 0, max: steps.length - 1, step: 1});
  range.value = String(nearest(steps, asked[name]));
  const tell = () => {
    asked[name] = steps[Number(range.value)];
    const text = `${tickText(asked[name])} ${unit}`;
    output.textContent = text;
    range.setAttribute("aria-valuetext", text);
  };
  tell();
  range.addEventListener("input", () => { tell(); changed(); });
  return make("div", {class: "field slider"}, make("div", {}, make("label", {for: id}, title), output), range);
}

function startWhatIf() {
  const section = byId("whatif"), form = byId("whatif-controls");
  section.hidden = !data.scenarios.length;
  if (section.hidden) return;
  asked.rate = RATES[nearest(RATES, data.whatif.rate)];
  asked.delay = DELAYS[nearest(DELAYS, data.whatif.delay)];
  asked.window = data.scenarios[0].window || asked.window;
  if (data.scenarios.length > 1) {
    form.append(choice("Case", data.scenarios.map((each, place) => [place, each.title]), 0, value => {
      asked.scenario = Number(value);
      drawWhatIf();
    }));
  }
  form.append(slider("Rate", "rate", RATES, "Mbit/s", drawWhatIf),
    slider("Delay, one way", "delay", DELAYS, "ms", drawWhatIf),
    slider("Window", "window", Array.from({length: 64}, (_, place) => place + 1), "in flight", drawWhatIf));
  form.addEventListener("submit", event => event.preventDefault());
  startMap();
}

function predictedMarks() {
  const scenario = data.scenarios[asked.scenario], parts = over(scenario, asked.rate, asked.delay);
  const marks = scenario.splits.map((split, place) => {
    const [label, short] = scenario.names[place];
    return {
      x: latencyOf(parts, split), y: scenario.batch * throughputOf(parts, split, asked.window), predicted: false,
      point: {label, short, sole: scenario.sole[place], front: 0},
    };
  });
  for (const mark of frontOf(marks)) mark.point.front = 1;
  return marks;
}

function drawWhatIf() {
  if (byId("whatif").hidden) return;
  const scenario = data.scenarios[asked.scenario], marks = predictedMarks();
  const soonest = marks.reduce((best, mark) => mark.x < best.x ? mark : best);
  const most = marks.reduce((best, mark) => mark.y > best.y ? mark : best);
  byId("whatif-answer").replaceChildren(
    `At ${tickText(asked.rate)} Mbit/s and ${tickText(asked.delay)} ms each way, with ${asked.window} in flight: `,
    make("b", {}, soonest.point.label), ` would answer soonest (${figure(soonest.x)} ms); `,
    ...(soonest === most ? ["it would also bring most"] : [make("b", {}, most.point.label), " would bring most"]),
    ` (${figure(most.y)} images/s).`);
  byId("whatif-error").textContent = errorOf(scenario);
  plot(byId("whatif-plot"), [{colour: "var(--predicted)", dash: "3 4", name: "predicted", marks}], {
    predicted: true,
    picked() {},
    called: "Predicted: latency against throughput",
    told: ({point, x, y}) => [["", point.label], ["Predicted latency", `${figure(x)} ms`],
      ["Predicted throughput", `${figure(y)} images/s`], ["Predicted front", point.front ? "on" : "off"]],
  });
  const front = marks.filter(mark => mark.point.front).sort((a, b) => a.x - b.x);
  const head = (text, unit) => make("th", {scope: "col", class: "number"}, text, make("small", {}, ` ${unit}`));
  byId("whatif-table").replaceChildren(make("table", {}, make("caption", {}, "Predicted front"),
    make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "Split"), head("Latency", "ms"), head("Throughput", "images/s"))),
    make("tbody", {}, ...front.map(({point, x, y}) => make("tr", {"data-latency": x, "data-throughput": y},
      make("th", {scope: "row"}, point.label), make("td", {class: "number"}, figure(x)), make("td", {class: "number"}, figure(y)))))));
  drawMap();
}

function errorOf({latency_error: latency, throughput_error: throughput, link}) {
  const percent = value => `${figure(100 * value)} %`;
  if (!known(latency) || !known(throughput)) return "How far these predictions are off is not known: no point was left out to compare.";
  return `Points over ${link}, each predicted from the others, were off by ${percent(latency)} in latency and by `
    + `${percent(throughput)} in throughput (root mean square). Over other links it may be more.`;
}
