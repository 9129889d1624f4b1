// Light or dark: what the system prefers until the reader says otherwise.
import {themes} from './palette.js';

const prefersDark = () => window.matchMedia('(prefers-color-scheme: dark)');
const listeners = [];

export function currentTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === 'auto' ? themes[prefersDark().matches ? 'dark' : 'light'] : themes[chosen];
}

/// Calls back after every change of the theme.
export function whenThemeChanges(callback) {
  listeners.push(callback);
}

const changed = () => listeners.forEach((callback) => callback());

/// Whether the page is being printed.
export const onPaper = () => 'paper' in document.documentElement.dataset;

/// Paper is light, whatever the screen is, and narrower (style.css).
function printOnPaper() {
  const root = document.documentElement.dataset;
  let before = null;
  window.addEventListener('beforeprint', () => {
    before = root.theme;
    root.theme = 'light';
    root.paper = '';
    changed();
  });
  window.addEventListener('afterprint', () => {
    root.theme = before;
    delete root.paper;
    changed();
  });
}

export function startTheme(button) {
  printOnPaper();
  prefersDark().addEventListener('change', changed);
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = currentTheme().name === 'dark' ? 'light' : 'dark';
    changed();
  });
}
