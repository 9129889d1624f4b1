// A chart in a card: drawn when it comes near the window, again when its width or the theme changes, and downloaded as
// SVG or PNG.
import {countMarks, viewOf} from './chart.js';
import {download, element} from './elements.js';
import {themes} from './palette.js';
import {csvButton, valuesBelow} from './table.js';
import {currentTheme, onPaper, whenThemeChanges} from './theme.js';

const figures = new Set();

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) entry.target.figure.approach();
  }
}, {rootMargin: '600px'});

const resized = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.figure.fit();
});

function showTip(handler, event, item, value) {
  const tip = document.getElementById('tip');
  if (!value) {
    tip.hidden = true;
    return;
  }
  tip.replaceChildren(
      element('b', {}, value.title),
      element('dl', {}, value.lines.map(([name, text]) => [element('dt', {}, name), element('dd', {}, text)])));
  tip.hidden = false;
  const room = 14;
  const left = event.clientX + room + tip.offsetWidth > innerWidth ? event.clientX - room - tip.offsetWidth :
                                                                     event.clientX + room;
  const top = event.clientY + room + tip.offsetHeight > innerHeight ? event.clientY - room - tip.offsetHeight :
                                                                      event.clientY + room;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

class Figure {
  /// name: of downloads; title, note: texts, or functions that give the text for what is shown now; build({theme,
  /// width, paper}): the specification; describe(): one sentence for those who do not see it, if the title is not
  /// enough; csv(): {columns, rows}; clicked(datum): a mark was clicked; canvas: for many marks.
  constructor(
      {name, title, note = '', build, describe, csv, clicked = null, canvas = false, controls = [], below = []}) {
    const now = (text) => (typeof text === 'function' ? text : () => text);
    Object.assign(this, {name, build, csv, clicked, canvas, titleNow: now(title), noteNow: now(note)});
    this.describe = describe ?? this.titleNow;
    this.view = null;
    this.due = false;
    this.title = element('h3', {});
    this.chart = element('div', {class: 'chart'});
    this.chart.figure = this;
    const button = (label, run) =>
        element('button', {type: 'button', 'aria-label': `Download ${name} as ${label}`, onclick: run}, label);
    this.tools = element(
        'div', {class: 'tools'}, button('SVG', () => this.saveVector()), button('PNG', () => this.saveImage()),
        csvButton(name, () => this.csv()));
    this.note = element('figcaption', {});
    const shown = controls.filter((control) => control !== null);
    this.root = element(
        'figure', {class: 'card', 'data-figure': name}, element('div', {class: 'head'}, this.title, this.tools),
        this.note, shown.length > 0 ? element('div', {class: 'controls'}, shown) : null, this.chart, below,
        valuesBelow(this.titleNow(), () => this.csv()));
    this.say();
    figures.add(this);
    near.observe(this.chart);
    resized.observe(this.chart);
  }

  approach() {
    if (this.due) return;
    this.due = true;
    this.draw();
  }

  fit() {
    const width = Math.floor(this.chart.clientWidth);
    if (!this.due || width === 0 || width === this.drawnWidth) return;
    clearTimeout(this.fitting);
    this.fitting = setTimeout(() => this.draw(), 120);
  }

  /// Draws what the figure's data is now, if it has been drawn before.
  redraw() {
    if (this.due) this.draw();
  }

  /// One chart that cannot be drawn does not take the others with it.
  draw() {
    try {
      this.drawNow();
    } catch (error) {
      console.error(error);
      this.chart.replaceChildren(element('p', {class: 'failed'}, `This chart cannot be drawn: ${error.message}`));
    }
  }

  drawNow() {
    const width = Math.floor(this.chart.clientWidth);
    if (width === 0) return;
    this.drawnWidth = width;
    const theme = currentTheme();
    const paper = onPaper();
    const spec = this.build({theme, width, paper});
    this.view?.finalize();
    this.view = null;
    if (spec === null) {
      this.chart.replaceChildren(element('p', {class: 'note'}, 'No value to draw for this choice.'));
      this.say();
      return;
    }
    this.chart.replaceChildren();
    const renderer = this.canvas && !paper ? 'canvas' : 'svg';
    this.view = viewOf(spec, theme, {renderer, hover: true, container: this.chart});
    this.view.tooltip(showTip);
    if (this.clicked) {
      this.view.addEventListener('click', (event, item) => {
        if (item?.datum) this.clicked(item.datum);
      });
    }
    this.view.run();
    this.say();
  }

  /// New rows for one of the chart's data sets, without building the chart again.
  replace(dataset, rows) {
    if (!this.view) return;
    this.view.data(dataset, rows).run();
    this.say();
  }

  /// The words around the chart, for what it shows now.
  say() {
    this.title.textContent = this.titleNow();
    this.note.textContent = this.noteNow();
    this.note.hidden = this.note.textContent === '';
    // Vega makes a document of marks out of it; for those who do not see it, the sentence and the values say more.
    this.chart.setAttribute('role', 'img');
    this.chart.setAttribute('aria-label', this.describe());
    if (this.due) this.chart.dataset.marks = String(this.view ? countMarks(this.view) : 0);
  }

  paperView() {
    const theme = themes.light;
    const spec = this.build({theme, width: Math.max(640, this.drawnWidth ?? 0), paper: true});
    return spec === null ? null : viewOf({...spec, background: theme.background}, theme, {renderer: 'none'});
  }

  async saveVector() {
    const text = await this.paperView()?.toSVG();
    if (text) download(`${this.name}.svg`, new Blob([text], {type: 'image/svg+xml'}));
  }

  async saveImage() {
    const canvas = await this.paperView()?.toCanvas(2);
    canvas?.toBlob((blob) => download(`${this.name}.png`, blob), 'image/png');
  }
}

export const figure = (options) => new Figure(options);

/// Paper has no later: everything is drawn before printing.
export function startFigures() {
  whenThemeChanges(() => figures.forEach((one) => one.redraw()));
  window.addEventListener('beforeprint', () => figures.forEach((one) => one.approach()));
  window.addEventListener('scroll', () => {
    document.getElementById('tip').hidden = true;
  }, {passive: true});
}
