// 8. Where every number comes from.
import {element} from '../elements.js';
import {visible} from '../format.js';
import {tableCard} from '../table.js';

const text = (value) => (value === null || value === undefined ? 'n/a' : visible(String(value)));

function fileCard(file) {
  const line = (name, value) => [element('dt', {}, name), element('dd', {}, value)];
  return element(
      'div', {class: 'card'}, element('h3', {}, text(file.file)),
      element(
          'dl', {class: 'facts'}, line('command', element('code', {}, text(file.command_line))),
          line('version', text(file.evictsim_version)), line('seed', text(file.seed)),
          line('created', text(file.created)), line('complete', file.complete ? 'yes' : 'no: it was interrupted')));
}

export function provenanceSection(report) {
  const inputs = report.files.flatMap(
      (file) => (file.inputs ?? []).map((input) => [file.file, input.path, input.checksum, input.what]));
  const several = report.runs.length > 1;
  const policies = report.runs.flatMap(
      (run) => [...run.policies, ...(run.left_out ?? [])].map(
          (policy) => [...(several ? [run.file] : []), policy.name, policy.expansion, policy.status]));
  return [
    element(
        'div', {class: 'card'}, element('h3', {}, 'This report'),
        element(
            'dl', {class: 'facts'}, element('dt', {}, 'command'),
            element('dd', {}, element('code', {}, text(report.command_line))), element('dt', {}, 'version'),
            element('dd', {}, `evictsim ${text(report.evictsim_version)}`))),
    ...report.files.map(fileCard),
    inputs.length > 0 ? tableCard({
      name: 'inputs',
      title: 'Files read',
      rows: inputs,
      columns: [
        {name: 'by', show: text}, {name: 'file', long: true, show: text},
        {name: 'SHA-256', csv: 'sha256', long: true, show: text}, {name: 'what', show: text}
      ]
    }) :
                        null,
    policies.length > 0 ? tableCard({
      name: 'policies',
      title: 'Policies, with every parameter',
      rows: policies,
      columns: [
        ...(several ? [{name: 'run', show: text}] : []), {name: 'policy', show: text},
        {name: 'expansion', long: true, show: text}, {name: 'status', long: true, show: text}
      ]
    }) :
                          null,
  ];
}
