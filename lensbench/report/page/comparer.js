// The comparer. A row is one item (a prompt and a sample) at one scale, seed and wording; a panel is what one arm
// drew there. Images have verdicts or, where no detector judged them, scores. Only the rows in view have elements.
function comparer(data, sheets) {
  const HEIGHT = 84;
  const arms = data.arms.length;
  const TILE = arms <= 4 ? 56 : arms <= 6 ? 40 : 28;
  const TILES_SHOWN = 8;
  const order = [...data.arms.keys()];
  const { draw, least } = drawer(data);

  const groups = [];
  const groupAt = new Map();
  for (const panel of data.panels) {
    const key = `${panel.scale}/${panel.seed}/${panel.form}`;
    if (!groupAt.has(key)) {
      groupAt.set(key, groups.length);
      groups.push({ scale: panel.scale, seed: panel.seed, form: panel.form, panels: new Array(arms).fill(null), items: [] });
    }
    const group = groups[groupAt.get(key)];
    panel.place = new Map(panel.items.map((item, i) => [item, i]));
    panel.sheet = sheets[`${panel.cell}/${data.forms[panel.form]}`] || null;
    group.panels[panel.arm] = panel;
  }
  for (const group of groups) {
    const seen = new Set();
    for (const panel of group.panels) if (panel) for (const item of panel.items) seen.add(item);
    group.items = [...seen].sort((a, b) => a - b);
  }
  const textOf = (group, item) => data.texts[data.items[item][3 + group.form]] ?? "";
  const placeOf = (group, item, arm) => group.panels[arm]?.place.get(item);
  const verdict = (group, item, arm) => {
    const at = placeOf(group, item, arm);
    return at === undefined || !data.verdicts ? null : group.panels[arm].right[at] === "1";
  };
  const scoresOf = (group, item, arm) => {
    const at = placeOf(group, item, arm);
    if (at === undefined || data.verdicts) return [];
    return data.scores.map(({ name, digits }, i) => [name, group.panels[arm].scores[i][at], digits])
      .filter(([, value]) => value !== null).map(([name, value, digits]) => [name, value.toFixed(digits)]);
  };
  const verdictWord = (right) => (right === null ? "missing" : right ? "right" : "wrong");
  const verdictMark = (right) => (right === null ? "–" : right ? "✓ right" : "✗ wrong");

  const options = (select, entries, chosen) => {
    select.replaceChildren(...entries.map(([value, words]) => new Option(words, value)));
    select.value = String(chosen);
    select.closest("label").hidden = entries.length < 2;
  };
  const all = (names, word, present) => {
    const some = names.map((name, i) => [i, name]).filter(([i]) => present.has(i));
    return some.length > 1 ? [...some, ["", word]] : some;
  };
  const present = (field) => new Set(groups.map((group) => group[field]));
  const last = (set) => Math.max(...set);
  options(byId("task"), [["", "all tasks"], ...(data.verdicts ? data.tasks.map((name, i) => [i, name]) : [])], "");
  options(byId("form"), all(data.forms.map((form) => `${form} wording`), "any wording", present("form")), last(present("form")));
  options(byId("scale"), all(data.scales.map((name) => name || "–"), "all sizes", present("scale")), last(present("scale")));
  options(byId("seed"), all(data.seeds, "all seeds", present("seed")), Math.min(...present("seed")));
  const others = order.filter((arm) => arm !== data.reference);
  const named = order.map((arm) => [arm, data.arms[arm].name]);
  const shown = groups.filter((group) => group.form === last(present("form")) && group.scale === last(present("scale")));
  const rightOf = (arm) =>
    shown.reduce((sum, { panels }) => sum + [...(panels[arm]?.right ?? "")].filter((verdict) => verdict === "1").length, 0);
  options(byId("first"), named, others.length ? others.reduce((best, arm) => (rightOf(arm) > rightOf(best) ? arm : best)) : 0);
  options(byId("second"), named, data.reference);
  document.querySelector("#comparer .pair").hidden = arms < 2 || !data.verdicts;
  const KINDS = ["every", "first", "second", "both", "neither"];
  const kindWords = (kind) => {
    const [a, b] = ["first", "second"].map((id) => data.arms[byId(id).value].name);
    return {
      every: "every prompt", first: `${a} right, ${b} wrong`, second: `${b} right, ${a} wrong`,
      both: "both right", neither: "both wrong",
    }[kind];
  };
  const nameKinds = (chosen) => options(byId("verdicts"), KINDS.map((kind) => [kind, kindWords(kind)]), chosen);
  nameKinds("every");

  let [rows, current] = [[], 0]; // [group, item] of every row shown, and the place of the chosen one
  const list = byId("list");
  const nodes = new Map();

  const kindOf = (group, item) => {
    const a = verdict(group, item, Number(byId("first").value));
    const b = verdict(group, item, Number(byId("second").value));
    if (a === null || b === null) return null;
    return a ? (b ? "both" : "first") : b ? "second" : "neither";
  };

  // Everything but the verdicts and the task, which the table of counts is about.
  const inScope = () => {
    const scope = [];
    const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = new Map();
    for (const group of groups) {
      if (["scale", "seed", "form"].some((f) => byId(f).value !== "" && Number(byId(f).value) !== group[f])) continue;
      for (const item of group.items) {
        const text = data.items[item][3 + group.form];
        if (!has.has(text)) {
          const lower = (data.texts[text] ?? "").toLowerCase();
          has.set(text, words.every((word) => lower.includes(word)));
        }
        if (has.get(text)) scope.push([group, item]);
      }
    }
    return scope;
  };

  function counts(scope) {
    const table = document.querySelector(".counts");
    const byTask = new Map(data.tasks.map((_, i) => [i, Object.fromEntries(KINDS.map((kind) => [kind, 0]))]));
    const total = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
    for (const [group, item] of scope) {
      const kind = kindOf(group, item);
      const line = byTask.get(data.items[item][0]);
      line.every++; total.every++;
      if (kind) { line[kind]++; total[kind]++; }
    }
    const head = make("tr", {}, [attributes(make("th", { textContent: "Task" }), { scope: "col" })]);
    for (const kind of KINDS) {
      head.append(attributes(make("th", { textContent: kind === "every" ? "all" : kindWords(kind) }), { scope: "col" }));
    }
    table.tHead.replaceChildren(head);
    const line = (task, name, told) => {
      const row = make("tr", {}, [attributes(make("th", { textContent: name }), { scope: "row" })]);
      for (const kind of KINDS) {
        const n = told[kind];
        const button = make("button", { type: "button", textContent: n.toLocaleString("en"), disabled: n === 0 });
        const pressed = byId("task").value === String(task) && byId("verdicts").value === kind;
        attributes(button, { "aria-pressed": pressed, "aria-label": `${n} of ${name}: ${kindWords(kind)}` });
        Object.assign(button.dataset, { task, kind });
        row.append(make("td", {}, [button]));
      }
      return row;
    };
    const shown = [...byTask].filter(([, told]) => told.every);
    table.tBodies[0].replaceChildren(
      ...shown.map(([task, told]) => line(task, data.tasks[task], told)), line("", "all tasks", total));
  }

  function filter(keep) {
    const wanted = keep ? rows[current] : null;
    const scope = inScope();
    const task = byId("task").value;
    const kind = byId("verdicts").value;
    rows = scope.filter(([group, item]) =>
      (task === "" || data.items[item][0] === Number(task)) && (kind === "every" || kindOf(group, item) === kind));
    const at = wanted ? rows.findIndex(([group, item]) => group === wanted[0] && item === wanted[1]) : 0;
    current = Math.max(0, at);
    const focused = document.activeElement?.closest?.(".counts button")?.dataset;
    if (data.verdicts) counts(scope);
    if (focused) {
      document.querySelector(`.counts button[data-task="${focused.task}"][data-kind="${focused.kind}"]`)?.focus();
    }
    for (const node of nodes.values()) node.element.remove();
    nodes.clear();
    byId("spacer").style.height = `${rows.length * HEIGHT}px`;
    const words = summary();
    byId("count").textContent = words;
    reveal();
    render();
    view(false);
    say(words);
  }

  function summary() {
    const told = order.map((arm) => {
      let right = 0;
      let there = 0;
      for (const [group, item] of rows) {
        const said = verdict(group, item, arm);
        if (said !== null) { there++; right += said; }
      }
      return there ? `${data.arms[arm].name} ${right.toLocaleString("en")} right` : null;
    }).filter(Boolean);
    const n = rows.length;
    if (!n) return `No prompt fits. Choose ${data.verdicts ? "other verdicts, another task or other words" : "other words"}.`;
    return `${n.toLocaleString("en")} ${n > 1 ? "rows" : "row"}${told.length && told.length <= 8 ? `: ${told.join(", ")}` : ""}.`;
  }

  let waiting = 0;
  function say(words) {
    clearTimeout(waiting);
    waiting = setTimeout(() => { byId("live").textContent = words; }, 250);
  }

  function node(index) {
    const [group, item] = rows[index];
    const text = make("div", { className: "text" });
    const tiles = attributes(make("div", { className: "tiles" }), { "aria-hidden": "true" });
    const element = attributes(make("div", { className: "row", id: `row-${index}` }, [tiles, text]), {
      role: "option", "aria-setsize": rows.length, "aria-posinset": index + 1,
      "aria-label": spoken(group, item, false),
    });
    element.style.transform = `translateY(${index * HEIGHT}px)`;
    text.append(make("span", { textContent: textOf(group, item) }), make("small", { textContent: about(group, item) }));
    const canvases = order.slice(0, TILES_SHOWN).map((arm) => {
      const canvas = make("canvas");
      const said = verdict(group, item, arm);
      const mark = said !== null ? (said ? "✓" : "✗") : placeOf(group, item, arm) === undefined ? "–" : scoresOf(group, item, arm)[0]?.[1] ?? "";
      tiles.append(make("div", { className: `tile ${said === null ? "none" : verdictWord(said)}`, title: data.arms[arm].name },
        [canvas, mark]));
      return canvas;
    });
    element.addEventListener("click", () => go(index, false));
    list.append(element);
    return { element, canvases };
  }

  function about(group, item) {
    const [task, , sample] = data.items[item];
    const parts = data.verdicts ? [data.tasks[task]] : [];
    if (byId("form").value === "") parts.push(data.forms[group.form]);
    if (byId("scale").value === "") parts.push(data.scales[group.scale]);
    if (byId("seed").value === "") parts.push(`seed ${data.seeds[group.seed]}`);
    if (data.verdicts) parts.push(`picture ${sample + 1}`);
    return parts.join(" · ");
  }

  function paint(index, entry) {
    const [group, item] = rows[index];
    entry.canvases.forEach((canvas, arm) => {
      const panel = group.panels[arm];
      draw(canvas, panel, panel?.place.get(item), TILE, false, 0, schedule);
    });
  }

  function render() {
    const top = list.scrollTop;
    const first = Math.max(0, Math.floor(top / HEIGHT) - 3);
    const end = Math.min(rows.length, Math.ceil((top + list.clientHeight) / HEIGHT) + 3);
    for (const [index, entry] of nodes) {
      if (index < first || index >= end) { entry.element.remove(); nodes.delete(index); }
    }
    for (let index = first; index < end; index++) {
      if (!nodes.has(index)) nodes.set(index, node(index));
      const entry = nodes.get(index);
      entry.element.setAttribute("aria-selected", index === current);
      paint(index, entry);
    }
    if (rows.length) list.setAttribute("aria-activedescendant", `row-${current}`);
    else list.removeAttribute("aria-activedescendant");
  }

  let scheduled = false;
  function schedule() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; render(); });
  }

  function reveal() {
    const top = current * HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  }

  const found = (panel, at, task) => {
    const boxes = panel?.boxes?.[at];
    if (!boxes) return [];
    const words = [];
    for (let i = 0; i < boxes.length; i += 7) {
      const weak = boxes[i + 6] < 100 * least(task) ? ", not counted" : "";
      words.push(`${data.colors[boxes[i + 1]]} ${data.classes[boxes[i]]} (${boxes[i + 6]} %${weak})`);
    }
    return words;
  };

  const scoreWords = (group, item, arm) => {
    if (placeOf(group, item, arm) === undefined) return "missing";
    return scoresOf(group, item, arm).map((told) => told.join(" ")).join(", ") || "no score";
  };

  function spoken(group, item, withReasons) {
    const told = order.map((arm) => {
      if (!data.verdicts) return `${data.arms[arm].name} ${scoreWords(group, item, arm)}`;
      const panel = group.panels[arm];
      const said = verdict(group, item, arm);
      const reason = withReasons && said === false ? `, ${data.reasons[panel.reasons[panel.place.get(item)]]}` : "";
      return `${data.arms[arm].name} ${verdictWord(said)}${reason}`;
    });
    return `${textOf(group, item)}. ${told.join("; ")}.`;
  }

  function view(aloud) {
    const place = byId("arms");
    byId("previous").disabled = current <= 0;
    byId("next").disabled = current >= rows.length - 1;
    byId("legend").textContent = "";
    if (!rows.length) {
      byId("place").textContent = "";
      byId("prompt").textContent = "No prompt fits.";
      place.replaceChildren();
      return;
    }
    const [group, item] = rows[current];
    const task = data.items[item][0];
    const facts = [data.tasks[task], `${data.forms[group.form]} wording`, data.scales[group.scale],
      `training seed ${data.seeds[group.seed]}`, data.verdicts ? `picture ${data.items[item][2] + 1} of this prompt` : ""];
    byId("place").textContent =
      `${(current + 1).toLocaleString("en")} of ${rows.length.toLocaleString("en")} · ${facts.filter(Boolean).join(" · ")}`;
    const words = textOf(group, item);
    Object.assign(byId("prompt"), { textContent: words, className: words.length > 160 ? "long" : "" });
    const room = place.clientWidth || 300;
    const across = Math.max(1, Math.min(arms, arms > 6 && room > 500 ? 4 : 3));
    const size = Math.max(96, Math.min(224, Math.floor((room - 16 * (across - 1)) / across) - 1));
    place.style.setProperty("--picture", `${size}px`);
    let anyBoxes = false;
    place.replaceChildren(...order.map((arm) => {
      const panel = group.panels[arm];
      const at = panel?.place.get(item);
      const said = verdict(group, item, arm);
      const canvas = make("canvas");
      const boxes = byId("boxes").checked;
      const paintIt = () => draw(canvas, panel, at, size - 2, boxes, task, () => { if (canvas.isConnected) paintIt(); });
      paintIt();
      const seen = found(panel, at, task);
      anyBoxes ||= seen.length > 0;
      const there = at !== undefined;
      const reason = there && data.verdicts ? data.reasons[panel.reasons[at]] : "";
      const without = there && !panel.sheet ? " No picture here." : "";
      const result = data.verdicts ? `${verdictWord(said)}${reason && !said ? `, ${reason}` : ""}` : scoreWords(group, item, arm);
      attributes(canvas, { role: "img", "aria-label":
        `${data.arms[arm].name}, “${textOf(group, item)}”: ${result}.${without}` });
      const caption = make("figcaption", {}, [make("span", { className: "arm", textContent: data.arms[arm].name })]);
      if (data.verdicts) {
        caption.append(make("span", { className: `verdict ${said === null ? "none" : verdictWord(said)}`, textContent: verdictMark(said) }));
      }
      for (const [name, value] of scoresOf(group, item, arm)) {
        caption.append(make("span", { className: "score" }, [`${name} `, make("b", { textContent: value })]));
      }
      caption.firstChild.style.setProperty("--arm", data.arms[arm].color);
      if (reason) caption.append(make("span", { textContent: reason }));
      if (!there) caption.append(make("span", { textContent: `no such cell, or not ${data.verdicts ? "judged" : "scored"}` }));
      if (without) caption.append(make("span", { textContent: without.trim() }));
      if (seen.length && boxes) caption.append(make("ul", {}, seen.map((words) => make("li", { textContent: words }))));
      return make("figure", {}, [canvas, caption]);
    }));
    if (anyBoxes && byId("boxes").checked) {
      byId("legend").textContent = "A box is what the judge found, in the color it named, with its score; " +
        `in counting only scores of at least ${100 * data.countingThreshold} % count, others are dashed.`;
    }
    byId("boxes").closest("label").hidden = byId("box-key").hidden = !data.panels.some((panel) => panel.boxes);
    if (aloud) say(`${current + 1} of ${rows.length}. ${spoken(group, item, true)}`);
  }

  function go(index, focusList) {
    if (!rows.length) return;
    current = Math.max(0, Math.min(rows.length - 1, index));
    reveal();
    render();
    view(true);
    if (focusList) list.focus({ preventScroll: true });
  }

  const page = () => Math.max(1, Math.floor(list.clientHeight / HEIGHT) - 1);
  list.addEventListener("scroll", schedule, { passive: true });
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const to = {
      ArrowDown: current + 1, ArrowUp: current - 1, Home: 0, End: rows.length - 1,
      PageDown: current + page(), PageUp: current - page(),
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to, false);
  });
  const section = byId("pictures");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const target = event.target;
    const inside = section.contains(target);
    const box = section.getBoundingClientRect();
    const seen = box.top < innerHeight * 0.7 && box.bottom > innerHeight * 0.3;
    if (!inside && !(target === document.body && seen)) return;
    if (target.matches?.("select, input[type=search], .scroll")) return;
    if (event.key === "ArrowLeft") go(current - 1, false);
    else if (event.key === "ArrowRight") go(current + 1, false);
    else if (event.key === "b" && inside) byId("boxes").click();
    else return;
    event.preventDefault();
  });
  byId("previous").addEventListener("click", () => go(current - 1, false));
  byId("next").addEventListener("click", () => go(current + 1, false));
  byId("boxes").addEventListener("change", () => view(false));
  for (const id of ["task", "form", "scale", "seed", "verdicts"]) byId(id).addEventListener("change", () => filter(true));
  for (const id of ["first", "second"]) {
    byId(id).addEventListener("change", () => { nameKinds(byId("verdicts").value); filter(true); });
  }
  byId("words").addEventListener("input", () => filter(true));
  document.querySelector("#comparer form").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".counts").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    byId("task").value = button.dataset.task;
    byId("verdicts").value = button.dataset.kind;
    filter(false);
  });
  addEventListener("resize", () => { render(); view(false); });
  filter(false);
}
