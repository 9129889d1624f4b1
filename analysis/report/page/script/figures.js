// Run by node: reads a report's JSON from standard input and writes {"name.svg": text, ...} of its figures to standard
// output.
import {readFileSync, writeSync} from 'fs';

import {viewOf} from './chart.js';
import {curvesSpec, readsBetterInLog} from './charts/curves.js';
import {dilutionSpec} from './charts/dilution.js';
import {barPolicies, tierBarsSpec, tierStepsSpec, trafficMetrics, trafficSpec} from './charts/memory.js';
import {costSpec, frontierSpec, kvBudgetSpec, latencies, loadSpec, overTimeSpec} from './charts/plan.js';
import {metricsWithValues, standingOut, usualBudget, usualPolicy} from './charts/policies.js';
import {mapRows, survivalSpec} from './charts/tokens.js';
import {headMapSpec, positionsSpec, stepsSpec} from './charts/where.js';
import {themes} from './palette.js';
import {prepare} from './prepare.js';

const options = {
  theme: themes.light,
  width: 640,
  paper: true
};
const few = 16;

function* runFigures(run) {
  for (const metric of metricsWithValues(run, 'quality')) {
    for (const against of ['budget', 'bytes']) {
      const chosen = standingOut(run, metric.name, against);
      const choice = {
        metric: metric.name,
        against,
        xLog: against === 'bytes',
        yLog: readsBetterInLog(run, metric.name),
        chosen,
        bands: true,
        onlyChosen: false
      };
      yield [`${metric.name}_against_${against}`, curvesSpec(run, choice, options)];
    }
  }
  const b = usualBudget(run);
  const p = usualPolicy(run, b);
  const chosen = standingOut(run);
  for (const metric of run.where?.by_head ?? [])
    yield [`layer_head_${metric.name}`, headMapSpec(run, {metric: metric.name, p, b}, options)];
  for (const metric of run.where?.by_step?.metrics ?? [])
    yield [`by_step_${metric.name}`, stepsSpec(run, {metric: metric.name, b, chosen}, options)];
  if (run.where?.by_position) {
    for (const what of ['evicted', 'lost']) {
      if (run.where.by_position[what]) yield [`by_position_${what}`, positionsSpec(run, {what, b, chosen}, options)];
    }
  }
  for (const tokens of run.tokens ?? []) {
    yield [`tokens_${tokens.sequence}`, survivalSpec(run, tokens, {policies: mapRows(run, tokens), b: tokens.budgets.indexOf(usualBudget(run, tokens.budgets))}, options)];
  }
  if (run.dilution) yield ['dilution', dilutionSpec(run, {b, limit: few}, options)];
  yield ['bytes_per_tier', tierBarsSpec(run, {b, policies: barPolicies(run, b)}, options)];
  for (const metric of trafficMetrics(run))
    yield [metric.name, trafficSpec(run, {metric: metric.name, b, limit: few}, options)];
  if (run.memory?.steps && run.memory.hbm) yield ['bytes_over_steps', tierStepsSpec(run, {p, b}, options)];
}

function* planFigures(plan) {
  for (const [i, one] of plan.frontiers.entries()) {
    for (const [m, measure] of one.measures.entries())
      yield [`frontier_${i + 1}${m === 0 ? '' : `_${measure.error}`}`, frontierSpec(plan, one, measure, options)];
  }
  if (plan.loads.length > 0 && latencies(plan).length > 0) {
    for (const {column} of latencies(plan)) yield [`load_${column}`, loadSpec(plan, {column, log: true}, options)];
  }
  for (const [i, one] of plan.over_time.entries()) {
    yield [`kv_over_time_${i + 1}`, overTimeSpec(plan, one, 'kv', options)];
    yield [`batch_over_time_${i + 1}`, overTimeSpec(plan, one, 'batch', options)];
  }
  for (const [i, one] of plan.kv_budgets.entries()) yield [`kv_budget_${i + 1}`, kvBudgetSpec(one, options)];
  if (plan.costs) yield ['cost', costSpec(plan, {price: 1, limit: few}, options)];
}

async function main() {
  const report = prepare(JSON.parse(readFileSync(0, 'utf8')));
  const drawn = {};
  const draw = async (prefix, figures) => {
    for (const [name, spec] of figures) {
      if (spec === null) continue;
      const view = viewOf({...spec, background: options.theme.background}, options.theme, {renderer: 'none'});
      drawn[`${prefix}${name}.svg`] = await view.toSVG();
      view.finalize();
    }
  };
  const several = (list, i, stem) => (list.length > 1 ? `${stem}${i + 1}_` : '');
  for (const [i, run] of report.runs.entries()) await draw(several(report.runs, i, 'run'), runFigures(run));
  for (const [i, plan] of report.plans.entries())
    await draw(`${several(report.plans, i, 'plan')}plan_`, planFigures(plan));
  const bytes = Buffer.from(JSON.stringify(drawn));
  for (let written = 0; written < bytes.length;) written += writeSync(1, bytes, written);
}

main().catch((error) => {
  writeSync(2, `${error.message}\n`);
  process.exitCode = 1;
});
