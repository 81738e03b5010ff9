"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = data.items;
  const at = (id) => document.getElementById(id);
  const PREFIX = "bench-audit:" + data.audit;
  let rater = "";
  let votes = [];
  let begun = 0;
  let ready = false;
  let kept = true;

  function read(key) {
    try { return localStorage.getItem(key); } catch { kept = false; return null; }
  }

  function write(key, text) {
    try { localStorage.setItem(key, text); } catch { kept = false; }
    at("unkept").hidden = kept;
  }

  function show(id) {
    for (const part of ["start", "vote", "end"]) at(part).hidden = part !== id;
  }

  function stored(name) {
    try {
      const found = JSON.parse(read(PREFIX + ":" + name) || "[]");
      const fits = (vote, i) => items[i] && vote.item === items[i].item;
      return Array.isArray(found) && found.every(fits) ? found : [];
    } catch { return []; }
  }

  function begin(name) {
    rater = name;
    votes = stored(name);
    write(PREFIX, name);
    ask();
  }

  function arrive() {
    at("count").textContent = items.length.toLocaleString("en");
    at("rater").value = "";
    show("start");
    at("rater").focus();
  }

  function ask() {
    at("bar").value = votes.length / items.length;
    if (votes.length === items.length) {
      at("total").textContent = "All " + items.length.toLocaleString("en") + " votes are in.";
      show("end");
      at("download").focus();
      return;
    }
    const item = items[votes.length];
    show("vote");
    ready = false;
    at("question").textContent = data.question;
    at("prompt").textContent = item.prompt;
    at("progress").textContent = (votes.length + 1) + " of " + items.length;
    at("trouble").textContent = "";
    at("undo").disabled = votes.length === 0;
    enable(false);
    for (const side of ["left", "right"]) {
      at(side).classList.remove("chosen");
      at("image-" + side).src = item[side];
    }
    // Both at once, so that neither is seen first.
    Promise.all(["left", "right"].map((side) => at("image-" + side).decode())).then(
      () => {
        if (item !== items[votes.length]) return;
        ready = true;
        begun = performance.now();
        enable(true);
        ahead();
      },
      () => {
        if (item !== items[votes.length]) return;
        at("trouble").textContent =
          "A picture of this pair cannot be shown. Is the folder “images” beside this page?";
      },
    );
  }

  function enable(possible) {
    for (const id of ["left", "right", "choose-left", "choose-right", "tie"]) {
      at(id).disabled = !possible;
    }
  }

  function ahead() {
    const next = items[votes.length + 1];
    if (next) for (const side of ["left", "right"]) new Image().src = next[side];
  }

  function vote(choice) {
    if (!ready || at("vote").hidden) return;
    const seconds = Math.round((performance.now() - begun) / 100) / 10;
    votes.push({ item: items[votes.length].item, vote: choice, seconds });
    write(PREFIX + ":" + rater, JSON.stringify(votes));
    ask();
  }

  function undo() {
    if (!votes.length) return;
    votes.pop();
    write(PREFIX + ":" + rater, JSON.stringify(votes));
    ask();
  }

  function cell(value) {
    // No spreadsheet shall take a name for a formula.
    const text = /^[=+\-@\t\r\n']/.test(String(value)) ? "'" + value : String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  }

  function save() {
    const rows = votes.map((v) => [v.item, v.vote, v.seconds, rater].map(cell).join(","));
    const text = ["item,vote,seconds,rater", ...rows, ""].join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    const name = rater.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
    link.download = "votes-" + (name || "rater") + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  at("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = at("rater").value.trim().replace(/\s+/g, " ");
    if (name) begin(name);
  });
  for (const [id, choice] of [
    ["left", "left"], ["choose-left", "left"], ["right", "right"], ["choose-right", "right"],
    ["tie", "tie"],
  ]) {
    at(id).addEventListener("click", () => vote(choice));
  }
  at("undo").addEventListener("click", undo);
  at("back").addEventListener("click", undo);
  for (const id of ["save", "download"]) at(id).addEventListener("click", save);
  for (const id of ["other", "next-person"]) at(id).addEventListener("click", arrive);
  const KEYS = {
    ArrowLeft: () => vote("left"),
    ArrowRight: () => vote("right"),
    ArrowDown: () => vote("tie"),
    Backspace: undo,
    u: undo,
  };
  document.addEventListener("keydown", (event) => {
    const act = KEYS[event.key];
    const typing = event.target instanceof HTMLInputElement;
    const chord = event.ctrlKey || event.metaKey || event.altKey || event.repeat;
    if (!act || typing || chord || !at("start").hidden) return;
    event.preventDefault();
    act();
  });

  const last = read(PREFIX);
  at("unkept").hidden = kept;
  if (last) begin(last); else arrive();
})();
