// Elements, figures and the run's points. All text of others goes through text nodes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const points = data.points.map(row =>
  Object.fromEntries(data.fields.map((field, place) => [field, row[place]])));
for (const point of points) [point.label, point.short] = data.names[point.name];

// Rows of a table about points: what each is of a field, and its point.
const rowsOf = ({fields, rows}) => rows.map(row => {
  const found = Object.fromEntries(fields.map((field, place) => [field, row[place]]));
  return {...found, point: points[found.point]};
});

const byId = id => document.getElementById(id);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// An element of HTML, and one of SVG.
const make = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const known = value => value !== null && value !== undefined;

// A figure with three digits, or all of those before the point.
function figure(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size === 0 ? 0 : null;
  return digits === null
    ? value.toPrecision(2)
    : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function share(value) {
  if (!known(value)) return "–";
  return value > 0.995 && value < 1 ? "> 99 %" : value < 0.005 && value > 0 ? "< 1 %" : `${Math.round(100 * value)} %`;
}

function bytes(value) {
  if (!known(value)) return "–";
  for (const [unit, size] of [["MB", 1e6], ["kB", 1e3]]) if (value >= size) return `${figure(value / size)} ${unit}`;
  return `${Math.round(value)} B`;
}

const interval = (low, high) => known(low) && known(high) ? `${figure(low)} to ${figure(high)}` : null;

// Shown groups are told apart by the facets in which they differ.
function differing(groups) {
  return data.facets.map((_, place) => place)
    .filter(place => new Set(groups.map(group => data.groups[group][place])).size > 1);
}

const valueOf = (group, place) => data.facets[place].values[data.groups[group][place]];

const shortOf = (group, place) => data.facets[place].short[data.groups[group][place]];

const titleOf = (group, places) => places.map(place => valueOf(group, place)).join(", ");

function choice(title, options, selected, onchange) {
  const id = `choice-${++choice.count}`;
  const select = make("select", {id}, ...options.map(([value, text]) =>
    make("option", {value}, text)));
  select.value = String(selected);
  select.addEventListener("change", () => onchange(select.value));
  return make("div", {class: "field"}, make("label", {for: id}, title), select);
}
choice.count = 0;

// Moves among elements of which one at a time is reached by Tab.
function rove(elements, next) {
  if (elements.length) elements[0].setAttribute("tabindex", "0");
  return event => {
    const place = elements.indexOf(event.target);
    const to = place < 0 ? undefined : next(event.key, place);
    if (to === undefined || !elements[to]) return;
    event.preventDefault();
    elements[place].setAttribute("tabindex", "-1");
    elements[to].setAttribute("tabindex", "0");
    elements[to].focus();
  };
}
