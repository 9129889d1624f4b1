// Builds elements. Text always enters as text: what traces hold is never read as markup.
/// element('p', {class: 'note', onclick: f}, 'text', child, ...); null children are left out.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on'))
      made.addEventListener(key.slice(2), value);
    else
      made.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

let made = 0;
export const freshId = (stem) => `${stem}-${++made}`;

/// A labelled <select>. choices: [{value, label}]; `changed` gets the chosen value.
export function chooser(label, choices, chosen, changed, attributes = {}) {
  const select = element(
      'select', attributes,
      choices.map(
          (choice) =>
              element('option', {value: String(choice.value), selected: choice.value === chosen}, choice.label)));
  select.addEventListener('change', () => changed(choices[select.selectedIndex].value));
  return element('label', {}, label, select);
}

export function checkbox(label, checked, changed) {
  const input = element('input', {type: 'checkbox', checked});
  input.addEventListener('change', () => changed(input.checked));
  return element('label', {class: 'check'}, input, label);
}

/// A labelled slider over named places; `changed` gets the place's index while it moves.
export function slider(label, names, place, changed) {
  const id = freshId('slider');
  const output = element('output', {for: id
  }, names[place]);
  const input = element(
      'input',
      {type: 'range', id, min: 0, max: names.length - 1, step: 1, value: place, 'aria-valuetext': names[place]});
  input.addEventListener('input', () => {
    const at = Number(input.value);
    output.textContent = names[at];
    input.setAttribute('aria-valuetext', names[at]);
    changed(at);
  });
  return element('div', {class: 'field'}, element('label', {for: id
                 }, element('span', {}, `${label}: `, output)), input);
}

/// One or several lines that stand out.
export const notice = (...lines) => element('div', {class: 'notice'}, lines.map((line) => element('p', {}, line)));

/// Hands the user a file.
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = element('a', {href: url, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
