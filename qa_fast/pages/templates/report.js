"use strict";

// The examples are data, never markup: every text gets onto the page as a text node.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const LONGEST_SHOWN = 2000; // characters of a context shown before the reader asks for all of it
const AROUND = 400; // characters around each answer in a longer one
const BLOCK = 4000; // characters that are laid out together
const LONGEST_LINE = 300; // characters of a question or an answer in a list
const LOW_CONFIDENCE = 0.5;

const list = document.getElementById("list");
const more = document.getElementById("more");
const shownCount = document.getElementById("count");
const search = document.getElementById("search");
const order = document.getElementById("order");

const FILTERS = {
  all: () => true,
  wrong: (row) => !row.exact,
  right: (row) => Boolean(row.exact),
  "no-answer": (row) => (row.golds.length === 0) !== (row.answer === ""),
  unsure: (row) => row.confidence !== null && row.confidence < LOW_CONFIDENCE,
};
const ORDERS = {
  data: (a, b) => a.number - b.number,
  f1: (a, b) => a.f1 - b.f1,
  unsure: (a, b) => (a.confidence ?? 2) - (b.confidence ?? 2),
  sure: (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1),
};

data.rows.forEach((row, number) => {
  row.number = number;
  const texts = [row.id, row.question, row.answer, ...row.golds.map((gold) => gold.text)];
  row.searched = texts.join("\n").toLowerCase();
});

let found = [];
let shown = 0;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function text(value, className = "") {
  const node = element("span", `text ${className}`, value);
  node.dir = "auto";
  return node;
}

function percent(value) {
  return `${(100 * value).toFixed(0)}%`;
}

// For lists: a long text is cut, it can be read in its context.
function line(value, className) {
  const cut = value.length > LONGEST_LINE;
  return text(cut ? `${value.slice(0, wholeCharacter(value, LONGEST_LINE))}…` : value, className);
}

function answerOr(value) {
  return value === "" ? element("em", "", "no answer") : line(value);
}

function summaryOf(row) {
  const verdict = row.exact ? "right" : row.f1 > 0 ? `F1 ${percent(row.f1)}` : "wrong";
  const golds = row.golds.length ? [...new Set(row.golds.map((gold) => gold.text))] : [""];
  const answers = element("span", "answers", "predicted ", answerOr(row.answer), " · gold ");
  golds.slice(0, 3).forEach((gold, i) => answers.append(i ? " | " : "", answerOr(gold)));
  const sure = row.confidence === null ? "" : `${percent(row.confidence)} sure`;
  return element(
    "summary",
    "",
    element("span", `verdict ${row.exact ? "right" : "wrong"}`, verdict),
    line(row.question, "question"),
    element("span", "muted sure", sure),
    answers,
  );
}

// Cuts [0, length) at the ends of the spans; each piece knows which spans it lies in.
function pieces(length, spans) {
  const cuts = [...new Set([0, length, ...spans.flatMap((span) => [span.start, span.end])])];
  cuts.sort((a, b) => a - b);
  return cuts.slice(0, -1).map((start, i) => {
    const kinds = spans.filter((span) => span.start <= start && cuts[i + 1] <= span.end);
    return { start, end: cuts[i + 1], kinds: [...new Set(kinds.map((span) => span.kind))] };
  });
}

// Never between the two halves of a surrogate pair.
function wholeCharacter(context, place) {
  const code = context.charCodeAt(place);
  return code >= 0xdc00 && code < 0xe000 ? place + 1 : place;
}

// The parts of a text to show: all of it, or only what is around the spans and the ends.
function excerpts(context, spans, everything) {
  const parts = [];
  for (const piece of pieces(context.length, spans)) {
    const content = context.slice(piece.start, piece.end);
    const className = piece.kinds.join(" ");
    if (everything || context.length <= LONGEST_SHOWN || content.length <= 2 * AROUND) {
      parts.push({ content, className });
      continue;
    }
    const first = wholeCharacter(content, AROUND);
    const last = wholeCharacter(content, content.length - AROUND);
    const atStart = piece.start === 0 && spans.length;
    const atEnd = piece.end === context.length && spans.length;
    if (!atStart) parts.push({ content: content.slice(0, first), className });
    parts.push({ content: " […] ", className: "gap" });
    if (!atEnd) parts.push({ content: content.slice(last), className });
  }
  return parts;
}

// Browsers lay out a paragraph as a whole, which takes for ever where it is a megabyte: so blocks of
// moderate size, cut at white space, of which only those in sight are laid out.
function inBlocks(parts) {
  const blocks = [element("div", "block")];
  let room = BLOCK;
  for (const { content, className } of parts) {
    let rest = content;
    while (rest) {
      let cut = rest.length;
      if (cut > room) {
        cut = rest.slice(0, room).search(/\s\S*$/) + 1 || wholeCharacter(rest, room);
      }
      const text = rest.slice(0, cut);
      blocks.at(-1).append(className ? element("mark", className, text) : text);
      rest = rest.slice(cut);
      room -= cut;
      if (rest) {
        blocks.push(element("div", "block"));
        room = BLOCK;
      }
    }
  }
  return blocks;
}

function contextOf(row, everything) {
  const context = data.contexts[row.context];
  const spans = row.golds
    .filter((gold) => gold.start !== null)
    .map((gold) => ({ start: gold.start, end: gold.end, kind: "gold" }));
  if (row.start !== null) spans.push({ start: row.start, end: row.end, kind: "predicted" });
  const box = element("div", "text context", ...inBlocks(excerpts(context, spans, everything)));
  box.dir = "auto";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Context");
  return box;
}

function key(row) {
  const predicted = element("span", "", element("mark", "predicted", "predicted answer"));
  if (row.located) predicted.append(" (where its text first occurs)");
  if (row.answer !== "" && row.start === null) predicted.append(" (not in the text)");
  const gold = element("span", "", element("mark", "gold", "gold answer"));
  const kinds = element("div", "key muted");
  if (row.answer !== "") kinds.append(predicted);
  if (row.golds.length) kinds.append(gold);
  const facts = [];
  if (row.na_prob !== null) facts.push(`no-answer probability ${row.na_prob.toPrecision(3)}`);
  if (row.chunks !== null) facts.push(`${row.chunks} chunk${row.chunks === 1 ? "" : "s"}`);
  kinds.append(element("span", "", "id ", line(row.id)), ...facts.map((fact) => element("span", "", fact)));
  return kinds;
}

function nBest(row) {
  const body = element("tbody");
  row.n_best.forEach(([answer, score], i) => {
    const cells = [element("td", "", String(i + 1)), element("td", "wide", answerOr(answer))];
    cells.push(element("td", "", score === null ? "" : score.toPrecision(4)));
    body.append(element("tr", "", ...cells));
  });
  const head = element("tr", "");
  for (const [name, className] of [["#", ""], ["Answer", "wide"], ["Score", ""]]) {
    const cell = element("th", className, name);
    cell.scope = "col";
    head.append(cell);
  }
  return element("table", "", element("thead", "", head), body);
}

function bodyOf(row) {
  const body = element("div", "body");
  if (row.question.length > LONGEST_LINE) {
    body.append(element("div", "text context", ...inBlocks([{ content: row.question, className: "" }])));
  }
  body.append(key(row), contextOf(row, false));
  const length = data.contexts[row.context].length;
  if (length > LONGEST_SHOWN) {
    const button = element("button", "", `Show the whole text (${length.toLocaleString("en")} characters)`);
    button.type = "button";
    button.addEventListener("click", () => {
      const whole = contextOf(row, true);
      body.replaceChild(whole, body.querySelector("[role=region]"));
      button.remove();
      whole.focus();
    });
    body.append(button);
  }
  if (row.n_best.length) body.append(nBest(row));
  return body;
}

function card(row) {
  const details = element("details", "card example", summaryOf(row));
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector(".body")) details.append(bodyOf(row));
  });
  return element("li", "", details);
}

function showMore() {
  const next = found.slice(shown, shown + PAGE);
  list.append(...next.map(card));
  shown += next.length;
  more.hidden = shown >= found.length;
  more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
}

function update() {
  const filter = FILTERS[document.querySelector("input[name=filter]:checked").value];
  const wanted = search.value.trim().toLowerCase();
  found = data.rows.filter((row) => filter(row) && row.searched.includes(wanted));
  found.sort(ORDERS[order.value]);
  shown = 0;
  list.replaceChildren();
  showMore();
  const of = data.rows.length.toLocaleString("en");
  shownCount.textContent = `${found.length.toLocaleString("en")} of ${of} questions`;
}

for (const input of document.querySelectorAll("input[name=filter]")) {
  const matching = data.rows.filter(FILTERS[input.value]).length;
  input.nextElementSibling.append(` ${matching.toLocaleString("en")}`);
  input.disabled = input.value !== "all" && matching === 0;
  input.addEventListener("change", update);
}

let timer;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(update, 150);
});
order.addEventListener("change", update);
more.addEventListener("click", () => {
  const first = shown;
  showMore();
  list.children[first]?.querySelector("summary").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], select")) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "j" || event.key === "k") {
    const items = [...list.querySelectorAll("summary")];
    const current = document.activeElement?.closest("#list li")?.querySelector("summary");
    const step = event.key === "j" ? 1 : -1;
    const next = current ? items[items.indexOf(current) + step] : items[0];
    if (next) next.focus();
    else if (event.key === "j" && !more.hidden) more.click();
  }
});

document.getElementById("examples").hidden = false;
update();
