// Lays out the report: headings at once, sections one after the other, charts when they come near.
import {embeddedReport, whyMissing} from './data.js';
import {element, notice} from './elements.js';
import {startFigures} from './figure.js';
import {visible} from './format.js';
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

const perRun = (report, key, why, make) => {
  if (report.runs.length === 0) return [notice(whyMissing(report, key) ?? why)];
  return report.runs.flatMap(
      (run, r) => [report.runs.length > 1 ? element('h3', {}, run.shownName) : null, ...make(report, run, r)]);
};

const noRun = 'No run file was given, so nothing was replayed.';

const sections = [
  {id: 'summary', title: 'Summary', make: (report) => summarySection(report)},
  {
    id: 'curves',
    title: 'Error and budget',
    lead: 'What each policy costs in quality, at every budget.',
    make: (report) => perRun(report, 'curves', noRun, curvesSection)
  },
  {
    id: 'where',
    title: 'Where it hurts',
    lead: 'Layers, heads, steps and positions.',
    make: (report) => perRun(report, 'where', noRun, whereSection)
  },
  {
    id: 'tokens',
    title: 'Tokens',
    lead: 'Which tokens survive, and which were evicted too early.',
    make: (report) => perRun(report, 'tokens', noRun, tokensSection)
  },
  {
    id: 'dilution',
    title: 'Dilution',
    lead: 'Attention on useful, distracting and sink tokens, before and after.',
    make: (report) => perRun(report, 'dilution', noRun, dilutionSection)
  },
  {
    id: 'memory',
    title: 'Memory and tiers',
    lead: 'What is kept where, what moves, and how much is cut while decoding.',
    make: (report) => perRun(report, 'memory', noRun, memorySection)
  },
  {
    id: 'plan',
    title: 'Plan',
    lead: 'Throughput, latency, memory and cost of a server under each policy.',
    make: (report) =>
        (report.plans.length === 0 ? [notice(whyMissing(report, 'plan') ?? 'No plan file was given.')] :
                                     report.plans.flatMap(
                                         (plan, p) =>
                                             [report.plans.length > 1 ? element('h3', {}, plan.shownName) : null,
                                              ...planSection(report, plan, p)]))
  },
  {
    id: 'provenance',
    title: 'Provenance',
    lead: 'Command lines, versions, checksums and seeds.',
    make: (report) => provenanceSection(report)
  },
];

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
  const holders = sections.map(({id, title, lead}) => {
    const link = element('a', {href: `#${id}`}, title);
    links.set(id, link);
    document.getElementById('contents').append(element('li', {}, link));
    const holder = element(
        'section', {id, 'aria-labelledby': `${id}-title`}, element('h2', {id: `${id}-title`}, title),
        lead ? element('p', {class: 'lead'}, lead) : null);
    main.append(holder);
    return holder;
  });
  for (let s = 0; s < sections.length; ++s) {
    try {
      holders[s].append(...sections[s].make(report).filter((part) => part !== null && part !== undefined));
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
