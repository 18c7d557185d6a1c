"use strict";

// Text of a run is hostile: all of it goes through textContent.
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  const themes = { auto: "as the system", light: "light", dark: "dark" };
  const theme = byId("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const names = Object.keys(themes);
    const now = names.indexOf(document.documentElement.dataset.theme);
    const next = names[(now + 1) % names.length];
    document.documentElement.dataset.theme = next;
    theme.textContent = `Theme: ${themes[next]}`;
  });

  const unfold = (hash) => {
    const target = hash.length > 1 && byId(hash.slice(1));
    const folded = target && target.closest("details");
    if (folded) folded.open = true;
  };
  addEventListener("hashchange", () => unfold(location.hash));
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", () => unfold(link.hash));
  }
  unfold(location.hash);

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });

  const source = byId("heat-data");
  if (source) heatMap(JSON.parse(source.textContent));

  function heatMap(data) {
    const state = {
      signal: 0,
      credit: true,
      table: false,
      checkpoint: data.checkpoints.length - 1,
      case: 0,
      at: 0,
    };
    let tokens = [];
    byId("heat").hidden = false;

    // Three characters a figure: 0 is n/a, 1 is zero, then three digits and a power of ten.
    const places = new Map([...data.digits].map((digit, place) => [digit, place]));
    const read = new Map();
    const unpack = (row) => {
      if (row === null || typeof row !== "string") return row;
      if (!read.has(row)) {
        const out = [];
        for (let i = 0; i < row.length; i += 3) {
          const code = [0, 1, 2].reduce((sum, k) => sum * 64 + places.get(row[i + k]), 0) - 2;
          const power = data.lowest + Math.floor(code / 900) - 2;
          out.push(code < 0 ? (code < -1 ? null : 0) : Number(`${100 + (code % 900)}e${power}`));
        }
        read.set(row, out);
      }
      return read.get(row);
    };

    // As `figure` in numbers.py writes it.
    const told = (value) => {
      if (value === null || value === undefined) return "n/a";
      const [digits, power] = value.toExponential(2).split("e").map(Number);
      if (power >= 3 && power < 9) return Math.round(digits * 10 ** power).toLocaleString("en-US");
      if (value !== 0 && (power < -4 || power >= 9)) {
        const size = String(Math.abs(power)).padStart(2, "0");
        return `${digits}e${power < 0 ? "-" : "+"}${size}`;
      }
      return String(Number(value.toPrecision(3)));
    };
    const share = (weight) => (weight === null ? "n/a" : `${told(weight * 100)}%`);
    const now = () => data.cases[state.case];
    const row = (kind, signal) => {
      const found = now()[kind][state.checkpoint];
      return found ? unpack(found[signal]) : null;
    };
    const value = (kind, signal, n) => {
      const found = row(kind, signal);
      return found ? found[n] : null;
    };
    const times = (signal, n) => {
      const weight = value("weights", signal, n);
      return weight === null ? null : weight * now().counted;
    };
    const shade = (n) => {
      const [, , top, topCredit] = data.signals[state.signal];
      const found = state.credit ? times(state.signal, n) : value("values", state.signal, n);
      return found === null ? null : Math.min(1, found / (state.credit ? topCredit : top));
    };
    const counts = (token) => Boolean(token[2] & 1);
    const put = (element, parts) => {
      for (const part of parts) {
        if (typeof part === "string") element.append(part);
        else element.append(make("i", part[0]));
      }
    };
    const plain = (parts) => parts.map((part) => (typeof part === "string" ? part : part[0])).join("");
    const figure = (n) => {
      const [name, unit] = data.signals[state.signal];
      const weight = value("weights", state.signal, n);
      if (state.credit) return `${name} ${share(weight)} of the credit`;
      return `${name} ${told(value("values", state.signal, n))} ${unit}`;
    };

    function drawCase() {
      const one = now();
      byId("heat-case").value = String(state.case);
      byId("heat-before").disabled = state.case === 0;
      byId("heat-after").disabled = state.case === data.cases.length - 1;
      byId("heat-facts").textContent = one.facts;
      byId("heat-prompt").hidden = one.prompt === null;
      byId("heat-prompt").querySelector("pre").textContent = one.prompt || "";
      byId("heat-left").textContent = one.left;
      const box = byId("heat-tokens");
      box.replaceChildren();
      tokens = one.tokens.map((token, n) => {
        const element = make("span", undefined, "tok");
        element.setAttribute("role", "option");
        element.dataset.n = n;
        element.tabIndex = -1;
        put(element, token[0]);
        box.append(element);
        if (token[2] & 2) box.append(make("br"));
        return element;
      });
      const shades = tokens.map((_, n) => (counts(one.tokens[n]) && shade(n)) || 0);
      state.at = shades.indexOf(Math.max(...shades));
      paint();
    }

    function paint() {
      const one = now();
      const [name, unit, top, topCredit] = data.signals[state.signal];
      tokens.forEach((element, n) => {
        const strength = shade(n);
        const masked = !counts(one.tokens[n]);
        element.classList.toggle("masked", masked);
        element.classList.toggle("undefined", !masked && strength === null);
        element.style.setProperty("--v", masked || strength === null ? "0" : strength.toFixed(4));
        const what = masked ? "masked, no credit" : figure(n);
        element.setAttribute("aria-label", `${plain(one.tokens[n][0])}, token ${n}, ${what}`);
      });
      byId("heat-high").textContent = state.credit
        ? `${told(topCredit)} times an even share or more`
        : `${told(top)}${unit === "1" ? "" : ` ${unit}`} or more`;
      byId("heat-low").textContent = "0";
      const [checkpoint, step] = data.checkpoints[state.checkpoint];
      const place = step === null ? checkpoint : `step ${step}`;
      byId("heat-checkpoint-told").textContent =
        step === null || checkpoint === `checkpoint-${step}` ? place : `${place} (${checkpoint})`;
      const slider = byId("heat-checkpoint");
      if (slider) {
        slider.value = String(state.checkpoint);
        slider.setAttribute("aria-valuetext", place);
      }
      byId("heat-note").textContent =
        one.values[state.checkpoint] === null
          ? `${checkpoint} did not replay this completion: it is on-policy for others only.`
          : `${name} ${state.credit ? "as credit" : "raw"} at ${place}.`;
      const press = (id, key, chosen) => {
        for (const button of byId(id).children) {
          button.setAttribute("aria-pressed", String(button.dataset[key] === String(chosen)));
        }
      };
      press("heat-signals", "signal", state.signal);
      press("heat-as", "credit", Number(state.credit));
      press("heat-view", "table", Number(state.table));
      byId("heat-tokens").hidden = state.table;
      byId("heat-table").hidden = !state.table;
      byId("heat-panel").hidden = state.table;
      if (state.table) drawTable();
      choose(state.at);
    }

    function choose(n) {
      tokens.forEach((element, k) => {
        element.tabIndex = k === n ? 0 : -1;
        element.setAttribute("aria-selected", String(k === n));
        element.classList.toggle("on", k === n);
      });
      state.at = n;
      show(n);
    }

    function show(n) {
      const token = now().tokens[n];
      const chosen = byId("heat-chosen");
      chosen.replaceChildren();
      put(chosen, token[0]);
      const about = [`token ${n}`];
      if (token[1] >= 0) about.push(data.classes[token[1]]);
      if (token[3] !== null) about.push(`id ${token[3]}`);
      if (token[2] & 4) about.push("begins within the character before");
      about.push(counts(token) ? "counts" : "masked: no credit");
      byId("heat-about").textContent = about.join(" · ");
      const body = byId("heat-figures");
      body.replaceChildren();
      data.signals.forEach(([name, unit], signal) => {
        const line = make("tr", undefined, signal === state.signal ? "now" : "");
        const head = make("th", name.replaceAll("_", " "));
        head.scope = "row";
        if (unit !== "1") head.append(" ", make("span", unit, "unit"));
        const even = times(signal, n);
        line.append(
          head,
          make("td", told(value("values", signal, n)), "right"),
          make("td", share(value("weights", signal, n)), "right"),
          make("td", told(even), "right"),
        );
        body.append(line);
      });
    }

    function drawTable() {
      const one = now();
      const kind = state.credit ? "weights" : "values";
      const table = make("table");
      const head = make("tr");
      for (const name of ["position", "token", "class", "id", "counts"]) head.append(make("th", name));
      data.signals.forEach(([name, unit], signal) => {
        const of = state.credit || unit === "1" ? name : `${name}, ${unit}`;
        const cell = make("th", of.replaceAll("_", " "), "right");
        if (signal === state.signal) cell.setAttribute("aria-current", "true");
        head.append(cell);
      });
      for (const cell of head.children) cell.scope = "col";
      const body = make("tbody");
      one.tokens.forEach((token, n) => {
        const line = make("tr");
        const place = make("th", String(n));
        place.scope = "row";
        const piece = make("td", undefined, "piece");
        put(piece, token[0]);
        line.append(
          place,
          piece,
          make("td", token[1] < 0 ? "" : data.classes[token[1]]),
          make("td", token[3] === null ? "" : String(token[3])),
          make("td", counts(token) ? "yes" : "no, masked"),
        );
        data.signals.forEach((_, signal) => {
          const found = value(kind, signal, n);
          const cell = make("td", state.credit ? share(found) : told(found), "right");
          if (signal === state.signal && counts(token)) {
            const meter = make("span", undefined, "meter");
            const fill = make("i");
            fill.style.width = `${100 * (shade(n) || 0)}%`;
            meter.append(fill);
            cell.append(meter);
          }
          line.append(cell);
        });
        body.append(line);
      });
      const top = make("thead");
      top.append(head);
      const caption = make(
        "caption",
        state.credit ? "Share of the completion's credit" : "Raw values of every signal",
      );
      table.append(caption, top, body);
      byId("heat-table").replaceChildren(table);
    }

    const pressed = (id, act) => {
      byId(id).addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        act(button.dataset);
        paint();
      });
    };
    pressed("heat-signals", (of) => (state.signal = Number(of.signal)));
    pressed("heat-as", (of) => (state.credit = of.credit === "1"));
    pressed("heat-view", (of) => (state.table = of.table === "1"));
    const slider = byId("heat-checkpoint");
    if (slider) {
      slider.addEventListener("input", () => {
        state.checkpoint = Number(slider.value);
        paint();
      });
    }
    const goTo = (n) => {
      state.case = Math.max(0, Math.min(data.cases.length - 1, n));
      // A completion that this checkpoint did not replay: go to the last that did.
      if (now().values[state.checkpoint] === null) {
        state.checkpoint = now().values.findLastIndex((found) => found !== null);
      }
      drawCase();
    };
    byId("heat-case").addEventListener("change", (event) => goTo(Number(event.target.value)));
    byId("heat-before").addEventListener("click", () => goTo(state.case - 1));
    byId("heat-after").addEventListener("click", () => goTo(state.case + 1));

    const box = byId("heat-tokens");
    const numberOf = (event) => {
      const element = event.target.closest(".tok");
      return element ? Number(element.dataset.n) : null;
    };
    box.addEventListener("pointerover", (event) => {
      const n = numberOf(event);
      if (n !== null) show(n);
    });
    box.addEventListener("pointerleave", () => show(state.at));
    box.addEventListener("click", (event) => {
      const n = numberOf(event);
      if (n !== null) tokens[n].focus();
    });
    box.addEventListener("focusin", (event) => {
      const n = numberOf(event);
      if (n !== null) choose(n);
    });
    const beside = (n, way) => {
      const from = tokens[n].getBoundingClientRect();
      const middle = (from.left + from.right) / 2;
      let best = n;
      let nearest = Infinity;
      for (let k = n + way; k >= 0 && k < tokens.length; k += way) {
        const to = tokens[k].getBoundingClientRect();
        const apart = Math.round(Math.abs(to.top - from.top));
        if (apart < from.height / 2) continue;
        const far = apart * 1e4 + Math.abs((to.left + to.right) / 2 - middle);
        if (far >= nearest) {
          if (apart * 1e4 > nearest) break;
          continue;
        }
        best = k;
        nearest = far;
      }
      return best;
    };
    box.addEventListener("keydown", (event) => {
      const n = numberOf(event);
      if (n === null) return;
      const moves = {
        ArrowLeft: () => n - 1,
        ArrowRight: () => n + 1,
        ArrowUp: () => beside(n, -1),
        ArrowDown: () => beside(n, 1),
        Home: () => 0,
        End: () => tokens.length - 1,
      };
      if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      tokens[Math.max(0, Math.min(tokens.length - 1, moves[event.key]()))].focus();
    });

    const bar = byId("heat-bar");
    for (let k = 0; k <= 10; k += 1) {
      const cell = make("i");
      cell.style.setProperty("--v", String(k / 10));
      bar.append(cell);
    }
    goTo(0);
  }
})();
