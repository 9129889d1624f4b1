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

/// Paper is light, whatever the screen is.
function printInLight() {
  let before = null;
  window.addEventListener('beforeprint', () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = 'light';
    changed();
  });
  window.addEventListener('afterprint', () => {
    document.documentElement.dataset.theme = before;
    changed();
  });
}

export function startTheme(button) {
  printInLight();
  prefersDark().addEventListener('change', changed);
  button.addEventListener('click', () => {
    document.documentElement.dataset.theme = currentTheme().name === 'dark' ? 'light' : 'dark';
    changed();
  });
}
