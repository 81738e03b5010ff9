"use strict";
(() => {
  const PAGE = 24, MISSING = 65535, LEVELS = 65534, FEW = 6;
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Light and dark.
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("bench-theme"); } catch { return null; } };
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (["light", "dark"].includes(remembered())) document.documentElement.dataset.theme = remembered();
  theme.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("bench-theme", next); } catch { /* a page from disk may not keep it */ }
    named();
  });
  dark.addEventListener("change", named);
  theme.hidden = false;
  named();

  // Tables that sort.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (text === "" || text === "–") return null;
    const number = text.match(/^[+−-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?/);
    return number ? Number(number[0].replaceAll(",", "").replace("−", "-")) : text;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      if (heading.hasAttribute("data-fixed")) return;
      const button = make("button", "sort", heading.textContent);
      button.type = "button";
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([a], [b]) => (a === null ? 1 : b === null ? -1 : up ? compare(a, b) : compare(b, a)));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // What a mark says.
  const tip = document.getElementById("tip");
  const says = (target) => {
    const mark = target instanceof Element && target.closest("[data-says], .chart .mark, svg.interval[role]");
    return mark ? mark.dataset.says || mark.getAttribute("aria-label") : "";
  };
  document.addEventListener("pointerover", (event) => {
    tip.textContent = says(event.target);
    tip.hidden = !tip.textContent;
  });
  document.addEventListener("pointermove", (event) => {
    if (tip.hidden) return;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  });

  // The gallery.
  const decoded = (text) => {
    const bytes = atob(text), levels = new Uint16Array(bytes.length / 2);
    for (let i = 0; i < levels.length; i += 1) levels[i] = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    return levels;
  };
  const short = (value) => {
    const size = Math.abs(value);
    if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(2);
    return value.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
  };
  const tone = (value) => (value >= 0.005 ? "up" : value <= -0.005 ? "down" : "");
  const signed = (value) => ({ up: "▲ +", down: "▼ −", "": value === 0 ? "= " : "≈ " })[tone(value)] + Math.abs(value).toFixed(2);

  const viewer = document.getElementById("viewer");
  const close = viewer.querySelector("button[name=close]");
  let shown = null;
  close.addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => { const last = shown; shown = null; last?.back?.focus(); });
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !shown) return;
    event.preventDefault();
    shown.move(...step);
  });

  for (const section of document.querySelectorAll(".gallery")) {
    const data = JSON.parse(document.getElementById(section.dataset.from).textContent);
    const levels = decoded(data.scores);
    const items = data.texts.length, methods = data.methods.length, scorers = data.scorers.length;
    const pictured = Object.keys(data.pictures).length;
    const form = section.querySelector("form"), fields = form.elements;
    const list = section.querySelector(".items"), count = section.querySelector(".count");
    const pages = section.querySelector(".pages");
    const [before, after] = pages.querySelectorAll("button");
    let found = [], page = 0;

    const score = (method, scorer, item) => {
      const level = levels[(method * scorers + scorer) * items + item];
      const [low, high] = data.ends[scorer];
      return level === MISSING ? NaN : low + (high - low) * (level / LEVELS);
    };
    const change = (method, scorer, item) =>
      (score(method, scorer, item) - score(0, scorer, item)) / data.spread[scorer];
    const mean = (method, chosen, item) => {
      const known = chosen.map((s) => change(method, s, item)).filter((v) => !Number.isNaN(v));
      return known.length ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
    };
    const dispute = (method, item) => {
      const known = data.scorers.map((_, s) => change(method, s, item)).filter((v) => !Number.isNaN(v));
      return known.length > 1 ? Math.max(...known) - Math.min(...known) : NaN;
    };

    const option = (select, value, text) => {
      const element = make("option", "", text);
      element.value = value;
      select.append(element);
    };
    data.methods.forEach(({ name }, m) => { if (m) option(fields.method, m, name); });
    if (data.judges.length > 1) option(fields.scorer, "judges", "those that rank");
    if (scorers > 1) option(fields.scorer, "mean", "all, mean");
    data.scorers.forEach((name, s) => option(fields.scorer, s, name));
    if (data.judges.length === 1) fields.scorer.value = String(data.judges[0]);
    option(fields.group, "", "all");
    if (data.sets.length > 1) data.sets.forEach((name, i) => option(fields.group, `s${i}`, name));
    data.groups.forEach((name, i) => option(fields.group, `g${i}`, name));
    fields.pictures.closest("label").hidden = !pictured || pictured === items;
    fields.pictures.checked = Boolean(pictured) && pictured < items;
    fields.all.closest("label").hidden = methods <= FEW;
    list.classList.toggle("dense", !pictured);
    const several = new Set(data.noise).size > 1;

    const method = () => Number(fields.method.value || 0);
    const judges = () => (fields.scorer.value === "judges" ? data.judges
      : fields.scorer.value === "mean" ? data.scorers.map((_, s) => s) : [Number(fields.scorer.value)]);
    const shownMethods = () => {
      const every = data.methods.map((_, m) => m);
      if (fields.all.checked || methods <= FEW) return every;
      return [...new Set([0, method(), ...every.slice(1)])].slice(0, FEW).sort((a, b) => a - b);
    };

    const search = () => {
      const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const group = fields.group.value, number = Number(group.slice(1));
      found = [];
      for (let i = 0; i < items; i += 1) {
        const text = data.texts[i].toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
        if (group[0] === "s" && data.of[i] !== number) continue;
        if (group[0] === "g" && !data.in[i].includes(number)) continue;
        if (fields.pictures.checked && !data.pictures[i]) continue;
        found.push(i);
      }
      const order = fields.order.value, m = method(), by = judges();
      if (order !== "place") {
        const worth = new Map(found.map((i) => [i, order === "disputed" ? dispute(m, i)
          : mean(m, by, i) * (order === "wins" ? 1 : -1)]));
        const key = (i) => (Number.isNaN(worth.get(i)) ? -Infinity : worth.get(i));
        found.sort((a, b) => key(b) - key(a) || a - b);
      }
      page = 0;
      draw();
    };

    const scoresOf = (m, item) => {
      const said = make("dl", "said");
      data.scorers.forEach((name, s) => {
        const value = score(m, s, item);
        said.append(make("dt", "", name));
        said.append(make("dd", "", Number.isNaN(value) ? "–" : short(value)));
        const differs = m ? change(m, s, item) : NaN;
        said.append(make("dd", tone(differs), Number.isNaN(differs) ? "" : signed(differs)));
      });
      return said;
    };
    const picture = (m, item) => {
      const url = data.pictures[item]?.[m];
      if (!url) return make("div", "absent", "no picture");
      const image = make("img");
      image.alt = `${data.methods[m].name}: ${data.texts[item]}`;
      image.decoding = "async";
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128));
      image.addEventListener("error", () => image.replaceWith(make("div", "absent", "picture not found")));
      image.src = url;
      return image;
    };
    const figure = (m, item) => {
      const element = make("figure", m === method() ? "chosen" : "");
      const content = picture(m, item);
      if (content.tagName === "IMG") {
        const open = make("button", "open");
        open.type = "button";
        open.setAttribute("aria-label", `Enlarge ${data.methods[m].name}`);
        open.append(content);
        open.addEventListener("click", () => view(item, m, open));
        element.append(open);
      } else {
        element.append(content);
      }
      const caption = make("figcaption");
      caption.append(make("b", "", data.methods[m].name), scoresOf(m, item));
      element.append(caption);
      return element;
    };
    const table = (some, item) => {
      const element = make("table", "plain"), head = element.createTHead().insertRow(), body = element.createTBody();
      head.append(make("th", "", "method"), ...data.scorers.map((name) => make("th", "number", name)));
      for (const m of some) {
        const row = body.insertRow();
        if (m === method()) row.className = "chosen";
        row.append(make("th", "", data.methods[m].name));
        data.scorers.forEach((_, s) => {
          const value = score(m, s, item), differs = m ? change(m, s, item) : NaN;
          const cell = make("td", "number", Number.isNaN(value) ? "–" : short(value));
          if (!Number.isNaN(differs)) cell.append(" ", make("span", tone(differs), signed(differs)));
          row.append(cell);
        });
      }
      const scroll = make("div", "scroll");
      scroll.append(element);
      return scroll;
    };
    const about = (item) => [data.sets[data.of[item]], `prompt ${data.rows[item]}`,
      ...(several ? [`noise ${data.noise[item]}`] : []), ...data.in[item].map((g) => data.groups[g])].join(" · ");

    const draw = () => {
      const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
      page = Math.max(0, Math.min(page, last));
      const some = shownMethods();
      list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((item) => {
        const element = make("li", "item"), prompt = make("p", "prompt", data.texts[item]);
        prompt.dir = "auto";
        element.append(prompt, make("p", "about", about(item)));
        if (data.pictures[item]) {
          const strip = make("div", "strip");
          strip.append(...some.map((m) => figure(m, item)));
          element.append(strip);
        } else {
          element.append(table(some, item));
        }
        return element;
      }));
      count.textContent = `${found.length.toLocaleString("en")} of ${items.toLocaleString("en")} ${several ? "images" : "prompts"}`;
      pages.hidden = !last;
      pages.querySelector("span").textContent = `page ${page + 1} of ${last + 1}`;
      before.disabled = page === 0;
      after.disabled = page === last;
    };
    const turn = (by) => { page += by; draw(); section.scrollIntoView(); };
    before.addEventListener("click", () => turn(-1));
    after.addEventListener("click", () => turn(1));

    const view = (item, m, back) => {
      const panes = viewer.querySelector(".panes");
      viewer.querySelector(".where").textContent = `${data.methods[m].name} · ${about(item)}`;
      viewer.querySelector(".prompt").textContent = data.texts[item];
      panes.replaceChildren(...(m ? [0, m] : [0]).map((one) => {
        const element = make("figure"), caption = make("figcaption");
        caption.append(make("b", "", data.methods[one].name), scoresOf(one, item));
        element.append(picture(one, item), caption);
        return element;
      }));
      const withPictures = found.filter((i) => data.pictures[i]);
      shown = {
        back,
        move: (rows, columns) => {
          const at = withPictures.indexOf(item) + rows;
          if (at < 0 || at >= withPictures.length) return;
          view(withPictures[at], (m + columns + methods) % methods, back);
        },
      };
      if (!viewer.open) viewer.showModal();
    };

    form.addEventListener("input", search);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    search();
  }
})();
