// 4. The prompt, token by token: what two policies keep, side by side.
import {usualBudget, usualPolicy} from '../charts/policies.js';
import {mapRows, survivalSpec, windowPlace} from '../charts/tokens.js';
import {policyChooser} from '../choosers.js';
import {numbers} from '../data.js';
import {chooser, element, notice} from '../elements.js';
import {figure} from '../figure.js';
import {percent, visible} from '../format.js';
import {csvButton, tableCard} from '../table.js';
import {currentTheme, whenThemeChanges} from '../theme.js';

const chunkLength = 256;

const wash = (share) => `rgb(${currentTheme().wash.join(' ')} / ${Math.round(85 * share)}%)`;

/// Line ends are seen, and end lines.
const shownText = (text) => text.split('\n').map(visible).join('⏎\n');

const spanMarks = (spans, e) => {
  const classes = [];
  for (const span of spans) {
    if (e < span.begin || e >= span.end) continue;
    classes.push('evidence');
    if (e === span.begin) classes.push('first');
    if (e === span.end - 1) classes.push('last');
  }
  return classes;
};

/// One view of the prompt under a policy. Long prompts are filled in while they are scrolled to.
class TokenView {
  constructor(run, tokens, start) {
    Object.assign(this, {run, tokens, i: start.i, b: start.b, layer: null, head: null, what: 'kept'});
    this.evidence = tokens.spans.filter((span) => span.kind === 'evidence');
    this.text = element('div', {class: 'tokens', tabindex: '0', role: 'region', 'data-tokens': String(tokens.length)});
    this.filler = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) this.fill(entry.target);
      }
    }, {rootMargin: '400px'});
    this.controls = element('div', {class: 'controls'});
    this.kept = element('p', {class: 'note'});
    this.root = element('div', {class: 'card', 'data-figure-tokens': ''}, this.controls, this.kept, this.text);
    this.buildControls();
    whenThemeChanges(() => this.draw());
    window.addEventListener(
        'beforeprint', () => this.text.querySelectorAll('.chunk').forEach((chunk) => this.fill(chunk)));
    this.draw();
  }

  /// Where policy and budget stand in the detail by head, which may hold fewer of both.
  get headPlace() {
    const heads = this.tokens.heads;
    if (!heads) return null;
    const p = heads.policies.indexOf(this.tokens.policies[this.i]);
    const b = heads.budgets.indexOf(this.tokens.budgets[this.b]);
    return p < 0 || b < 0 ? null : {p, b};
  }

  buildControls() {
    const {run, tokens} = this;
    const change = (what) => {
      Object.assign(this, what);
      this.buildControls();
      this.draw();
    };
    const kinds = [{value: 'kept', label: 'kept by share of heads'}];
    if (tokens.premature) kinds.push({value: 'premature', label: 'evicted too early'});
    if (tokens.lost) kinds.push({value: 'lost', label: 'attention lost'});
    const focused = this.controls.contains(document.activeElement) ? document.activeElement.dataset.control : null;
    this.controls.replaceChildren(
        policyChooser(run, this.i, (i) => change({i}), 'token-policy', tokens.policies),
        chooser(
            'Budget', tokens.budgets.map((b, i) => ({value: i, label: run.budgets[b].text})), this.b,
            (b) => change({b}), {'data-control': 'token-budget'}),
        ...(kinds.length > 1 ?
                [chooser('Colour', kinds, this.what, (what) => change({what}), {'data-control': 'token-what'})] :
                []),
        ...(this.headPlace && this.what === 'kept' ?
                [
                  chooser(
                      'Layer',
                      [
                        {value: null, label: 'all'},
                        ...tokens.heads.layers.map((layer, l) => ({value: l, label: String(layer)}))
                      ],
                      this.layer, (layer) => change({layer}), {'data-control': 'token-layer'}),
                  chooser(
                      'Head',
                      [
                        {value: null, label: 'all'},
                        ...Array.from({length: tokens.heads.heads}, (_, head) => ({value: head, label: String(head)}))
                      ],
                      this.head, (head) => change({head}), {'data-control': 'token-head'}),
                ] :
                []));
    if (focused) this.controls.querySelector(`[data-control="${focused}"]`)?.focus();
  }

  /// One value per token, and the largest one that the colours reach.
  values() {
    const {tokens} = this;
    const place = this.headPlace;
    if (this.what === 'kept' && place && (this.layer !== null || this.head !== null)) {
      const bits = numbers(tokens.heads.kept);
      const layers = this.layer === null ? tokens.heads.layers.map((_, l) => l) : [this.layer];
      const heads = this.head === null ? Array.from({length: tokens.heads.heads}, (_, head) => head) : [this.head];
      return {
        most: 1,
        list: Array.from(
            {length: tokens.length},
            (_, e) => {
              let sum = 0;
              for (const layer of layers)
                for (const head of heads) sum += bits.at(place.p, place.b, layer, head, e);
              return sum / (layers.length * heads.length);
            })
      };
    }
    const list = numbers(tokens[this.what]).row(this.i, this.b);
    return {
      list,
      most: this.what === 'kept' ? 1 : list.reduce((largest, value) => Math.max(largest, value ?? 0), 1e-12)
    };
  }

  draw() {
    const {tokens, run} = this;
    const {list, most} = this.values();
    this.list = list;
    this.most = most;
    this.filler.disconnect();
    const known = list.filter((value) => value !== null);
    const mean = known.reduce((sum, value) => sum + value, 0) / Math.max(1, known.length);
    const name = run.policies[tokens.policies[this.i]].shown;
    this.text.setAttribute('aria-label', `The prompt under ${name}`);
    const onSpans = this.evidence.flatMap((span) => list.slice(span.begin, span.end)).filter((value) => value !== null);
    const span = onSpans.length > 0 ?
        `; of the evidence ${percent(onSpans.reduce((sum, value) => sum + value, 0) / onSpans.length)}` :
        '';
    const words = {
      kept: () => `kept on average ${percent(mean)}${span}.`,
      lost: () => `attention of the full cache that falls on tokens after they were evicted: ${
          percent(known.reduce((sum, value) => sum + value, 0))} in all. The darkest token: ${percent(most)}.`,
      premature: () =>
          `how often a token was among the most attended when it was already gone. The darkest token: ${percent(most)}.`
    };
    this.kept.textContent = `${name} at ${run.budgets[tokens.budgets[this.b]].text}: ${words[this.what]()}`;
    const chunks = [];
    for (let begin = 0; begin < tokens.length; begin += chunkLength) {
      const chunk = element('div', {class: 'chunk'});
      chunk.dataset.begin = String(begin);
      chunks.push(chunk);
    }
    this.text.classList.toggle('many', chunks.length > 8);
    this.text.replaceChildren(...chunks);
    chunks.forEach((chunk, c) => (c < 4 ? this.fill(chunk) : this.filler.observe(chunk)));
  }

  fill(chunk) {
    if (chunk.firstChild) return;
    this.filler.unobserve(chunk);
    const {tokens, list, most} = this;
    const begin = Number(chunk.dataset.begin);
    const spans = [];
    for (let e = begin; e < Math.min(begin + chunkLength, tokens.length); ++e) {
      const share = list[e] === null ? 0 : list[e] / most;
      const classes = [
        ...spanMarks(this.evidence, e), ...(tokens.text ? [] : ['position']),
        ...(this.what === 'kept' && list[e] === 0 && tokens.text ? ['gone'] : [])
      ];
      const span = element(
          'span', {
            class: classes.length > 0 ? classes.join(' ') : null,
            title: `token ${e}: ${list[e] === null ? 'n/a' : percent(list[e])}`
          },
          tokens.text ? shownText(tokens.text[e]) : '');
      if (share > 0) span.style.backgroundColor = wash(share);
      spans.push(span);
    }
    chunk.append(...spans);
  }
}

/// Both views show the same place of the prompt.
function scrollTogether(views) {
  for (const view of views) {
    view.text.addEventListener('scroll', () => {
      for (const other of views) {
        if (other !== view && Math.abs(other.text.scrollTop - view.text.scrollTop) > 1)
          other.text.scrollTop = view.text.scrollTop;
      }
    }, {passive: true});
  }
}

function worstTable(run, tokens, i, b) {
  const premature = numbers(tokens.premature)?.row(i, b) ?? null;
  const lost = numbers(tokens.lost)?.row(i, b) ?? null;
  const kept = numbers(tokens.kept).row(i, b);
  const by = premature ?? lost;
  if (!by) return null;
  const rows =
      by.map((value, e) => ({e, value: value ?? 0}))
          .filter((one) => one.value > 0)
          .sort((x, y) => y.value - x.value)
          .slice(0, 20)
          .map(({e}) => [e, tokens.text ? tokens.text[e] : null, kept[e], premature?.[e] ?? null, lost?.[e] ?? null]);
  const name = run.policies[tokens.policies[i]].shown;
  if (rows.length === 0)
    return notice(`${name} at ${run.budgets[tokens.budgets[b]].text} evicted nothing that was attended later.`);
  return tableCard({
    name: 'evicted_too_early',
    title: `Evicted too early by ${name} at ${run.budgets[tokens.budgets[b]].text}`,
    note: 'Tokens that decode steps would have attended most, when they were already gone.',
    columns: [
      {name: 'position', number: true},
      {name: 'token', long: true, show: (text) => (text === null ? 'n/a' : visible(text))},
      {name: 'kept by heads', number: true, csv: 'kept', show: percent},
      {name: 'missed', number: true, csv: 'premature', show: percent},
      {name: 'attention lost', number: true, csv: 'lost', show: percent}
    ],
    rows,
  });
}

function tokensCsv(run, tokens, views) {
  const arrays = views.map(
      (view) =>
          [numbers(tokens.kept).row(view.i, view.b), numbers(tokens.premature)?.row(view.i, view.b),
           numbers(tokens.lost)?.row(view.i, view.b)]);
  const columns = [
    'position', 'token', ...views.flatMap((view) => {
      const name = `${run.policies[tokens.policies[view.i]].name}@${run.budgets[tokens.budgets[view.b]].text}`;
      return [`${name} kept`, `${name} premature`, `${name} lost`];
    })
  ];
  const rows = Array.from(
      {length: tokens.length},
      (_, e) =>
          [e, tokens.text ? tokens.text[e] : null,
           ...arrays.flatMap((three) => three.map((array) => array?.[e] ?? null))]);
  return {columns, rows};
}

function oneSequence(run, tokens) {
  const b = tokens.budgets.indexOf(usualBudget(run, tokens.budgets));
  const best = Math.max(0, tokens.policies.indexOf(usualPolicy(run, tokens.budgets[b])));
  const window = windowPlace(run, tokens);
  const other = window >= 0 && window !== best ? window : (best + 1) % tokens.policies.length;
  const first = new TokenView(run, tokens, {i: best, b});
  const views = [
    first,
    ...(tokens.policies.length > 1 || tokens.budgets.length > 1 ? [new TokenView(run, tokens, {i: other, b})] : [])
  ];
  scrollTogether(views);
  const worst = element('div', {}, worstTable(run, tokens, first.i, first.b));
  first.controls.addEventListener(
      'change', () => worst.replaceChildren(worstTable(run, tokens, first.i, first.b) ?? ''));
  const rows = mapRows(run, tokens);
  const map = figure({
    name: 'prompt_survival',
    title: `What survives along the prompt at ${run.budgets[tokens.budgets[b]].text}`,
    canvas: true,
    build: (options) => survivalSpec(run, tokens, {policies: rows, b}, options),
    describe: () => 'Map of policies and positions: the share of heads that keep each stretch of the prompt.',
    csv: () => tokensCsv(run, tokens, views),
  });
  const key = element(
      'p', {class: 'key'}, element('span', {}, 'fewer', rampSample(), 'more'),
      first.evidence.length > 0 ? element('span', {class: 'sample'}, 'evidence') : null,
      element('span', {}, 'struck out: no head keeps it'));
  return [
    map.root,
    element(
        'div', {class: 'head'}, key,
        element('div', {class: 'tools'}, csvButton('tokens', () => tokensCsv(run, tokens, views)))),
    element('div', {class: views.length > 1 ? 'pair' : null}, views.map((view) => view.root)),
    worst,
  ];
}

function rampSample() {
  const ramp = element('span', {class: 'ramp', 'aria-hidden': 'true'});
  const paint = () => {
    ramp.style.background = `linear-gradient(90deg, ${wash(0)}, ${wash(1)})`;
  };
  paint();
  whenThemeChanges(paint);
  return ramp;
}

export function tokensSection(run) {
  if (!(run.tokens?.length > 0)) return [];
  const holder = element('div', {});
  const show = (tokens) => holder.replaceChildren(...oneSequence(run, tokens).filter((part) => part !== null));
  show(run.tokens[0]);
  const sequences = run.tokens.map((tokens) => ({value: tokens, label: visible(run.sequences[tokens.sequence].name)}));
  return [
    sequences.length > 1 ? element('div', {class: 'controls'}, chooser('Sequence', sequences, run.tokens[0], show)) :
                           null,
    holder
  ];
}
