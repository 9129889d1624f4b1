// Lays out the report: headings at once, sections one after the other, charts when they come near.
import {embeddedReport} from './data.js';
import {element, notice} from './elements.js';
import {startFigures} from './figure.js';
import {sentence, visible} from './format.js';
import {prepare} from './prepare.js';
import {curvesSection} from './sections/curves.js';
import {dilutionSection} from './sections/dilution.js';
import {memorySection} from './sections/memory.js';
import {planSection} from './sections/plan.js';
import {provenanceSection} from './sections/provenance.js';
import {summarySection} from './sections/summary.js';
import {tokensSection} from './sections/tokens.js';
import {whereSection} from './sections/where.js';
import {startTheme} from './theme.js';

/// What a section lacks and why, of the report as a whole or of one of its runs or plans.
function absences(report, section, kind = null, place = null) {
  const concerns = (entry) => entry.section === section &&
      ['run', 'plan'].every((one) => (entry[one] ?? null) === (one === kind ? place : null));
  return report.missing.filter(concerns).map(
      ({part, why}) => visible(sentence(part ? `${part.replaceAll('_', ' ')} not shown: ${why}` : why)));
}

/// A section's parts for every run, or plan, of the report.
const forEach = (kind, parts) => (report, section) => {
  const all = report[`${kind}s`];
  return all.flatMap((one, i) => {
    const absent = absences(report, section, kind, i);
    return [
      all.length > 1 ? element('h3', {}, one.shownName) : null, ...parts(one),
      absent.length > 0 ? notice(...absent) : null
    ];
  });
};

// Identifier, title, what it is about, and what gives its parts.
const sections = [
  ['summary', 'Summary', null, summarySection],
  ['curves', 'Error and budget', 'What each policy costs in quality, at every budget.', forEach('run', curvesSection)],
  ['where', 'Where it hurts', 'Layers, heads, steps and positions.', forEach('run', whereSection)],
  ['tokens', 'Tokens', 'Which tokens survive, and which were evicted too early.', forEach('run', tokensSection)],
  [
    'dilution', 'Dilution', 'Attention on useful, distracting and sink tokens, before and after.',
    forEach('run', dilutionSection)
  ],
  [
    'memory', 'Memory and tiers', 'What is kept where, what moves, and how much is cut while decoding.',
    forEach('run', memorySection)
  ],
  ['plan', 'Plan', 'Throughput, latency, memory and cost of a server under each policy.', forEach('plan', planSection)],
  ['provenance', 'Provenance', 'Command lines, versions, checksums and seeds.', provenanceSection],
];

/// Everything below a section's heading; never nothing.
function contentOf(report, section, make) {
  const parts = make(report, section).filter((part) => part !== null && part !== undefined);
  const absent = absences(report, section);
  if (absent.length > 0) parts.push(notice(...absent));
  return parts.length > 0 ? parts : [notice('The files of this report hold nothing for this section.')];
}

const afterPaint = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));

/// Marks the section in view in the contents.
function followScrolling(links) {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (entry.isIntersecting)
        link.setAttribute('aria-current', 'true');
      else
        link.removeAttribute('aria-current');
    }
  }, {rootMargin: '-30% 0px -60% 0px'});
  links.forEach((_, id) => observer.observe(document.getElementById(id)));
}

async function start() {
  document.getElementById('title').textContent = visible(document.title);
  startTheme(document.getElementById('theme'));
  startFigures();
  const main = document.getElementById('report');
  const report = prepare(await embeddedReport(document.getElementById('report-data')));
  document.getElementById('loading').remove();
  document.getElementById('version').textContent = `evictsim ${report.evictsim_version}`;
  const links = new Map();
  const holders = sections.map(([id, title, lead]) => {
    const link = element('a', {href: `#${id}`}, title);
    links.set(id, link);
    document.getElementById('contents').append(element('li', {}, link));
    const holder = element(
        'section', {id, 'aria-labelledby': `${id}-title`}, element('h2', {id: `${id}-title`}, title),
        lead ? element('p', {class: 'lead'}, lead) : null);
    main.append(holder);
    return holder;
  });
  for (const [s, [id, , , make]] of sections.entries()) {
    try {
      holders[s].append(...contentOf(report, id, make));
    } catch (error) {
      console.error(error);
      holders[s].append(notice(`This section cannot be drawn: ${error.message}`));
    }
    await afterPaint();
  }
  followScrolling(links);
  document.documentElement.dataset.ready = 'true';
}

start().catch((error) => {
  console.error(error);
  document.getElementById('loading').textContent = `The data of this report cannot be read: ${error.message}`;
});
