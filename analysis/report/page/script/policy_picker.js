// The policies as buttons: press some to see only those in colour; the same buttons are the legend.
import {element} from './elements.js';
import {look} from './palette.js';
import {currentTheme, whenThemeChanges} from './theme.js';

const svgNamespace = 'http://www.w3.org/2000/svg';

function swatch(style) {
  const svg = document.createElementNS(svgNamespace, 'svg');
  svg.setAttribute('width', '22');
  svg.setAttribute('height', '8');
  svg.setAttribute('aria-hidden', 'true');
  const line = document.createElementNS(svgNamespace, 'line');
  const attributes = {
    x1: 0,
    x2: 22,
    y1: 4,
    y2: 4,
    stroke: style.colour,
    'stroke-width': 2.5,
    'stroke-dasharray': style.dash.join(' ')
  };
  for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

/// names: one per policy; standing(): what stands out while nothing is picked; changed(): the choice moved.
export class PolicyPicker {
  constructor(names, standing, changed) {
    Object.assign(this, {names, standing, changed});
    this.picked = [];
    this.filter = element(
        'input',
        {type: 'search', placeholder: 'filter', 'aria-label': 'Filter the policies', oninput: () => this.update()});
    this.clear = element('button', {type: 'button', onclick: () => this.reset()}, 'Show the front');
    this.chips = element('div', {class: 'chips', role: 'group', 'aria-label': 'Policies: press to isolate'});
    this.buttons = names.map((name, p) => {
      const button = element(
          'button', {type: 'button', title: name, onclick: () => this.toggle(p)}, element('span', {}),
          element('span', {}, name));
      button.dataset.policy = name;
      return button;
    });
    this.root = element(
        'div', {class: 'picker'},
        element('div', {class: 'controls'}, names.length > 8 ? this.filter : null, this.clear), this.chips);
    whenThemeChanges(() => this.update());
    this.update();
  }

  /// Policies in colour, in the order of their looks.
  get chosen() {
    return this.picked.length > 0 ? this.picked : this.standing();
  }

  get isolated() {
    return this.picked.length > 0;
  }

  toggle(p) {
    this.picked = this.picked.includes(p) ? this.picked.filter((other) => other !== p) : [...this.picked, p];
    this.update();
    this.changed();
  }

  reset() {
    this.picked = [];
    this.update();
    this.changed();
  }

  update() {
    const chosen = this.chosen;
    const wanted = this.filter.value.trim().toLowerCase();
    const theme = currentTheme();
    const focused = document.activeElement;
    const order = [...chosen, ...this.names.map((_, p) => p).filter((p) => !chosen.includes(p))];
    for (const p of order) {
      const place = chosen.indexOf(p);
      this.buttons[p].setAttribute('aria-pressed', String(this.picked.includes(p)));
      this.buttons[p].firstChild.replaceChildren(...(place < 0 ? [] : [swatch(look(place, theme))]));
      this.buttons[p].firstChild.hidden = place < 0;
    }
    this.chips.replaceChildren(
        ...order.filter((p) => this.names[p].toLowerCase().includes(wanted)).map((p) => this.buttons[p]));
    this.clear.hidden = this.picked.length === 0;
    if (this.chips.contains(focused)) focused.focus();
  }
}
