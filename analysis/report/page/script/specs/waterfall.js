// What is taken from a sum, one bar after the other, and what remains.
import {bottomAxis, frame, namesAxis, partColours, scaleOver} from './frame.js';

const right = 'max(datum.from, datum.to)';
const left = 'min(datum.from, datum.to)';
const room = 80;

/// lines: {name, value, tip}; the total is drawn last, from zero.
export function waterfall({lines, total, title, format = '.3~s', width, theme}) {
  let reached = 0;
  const steps = lines.map((line) => {
    const from = reached;
    reached += line.value;
    return {...line, from, to: reached, kind: line.value < 0 ? 'taken' : 'given'};
  });
  steps.push({...total, from: 0, to: total.value, kind: 'left'});
  return frame({
    width,
    height: 24 * steps.length,
    data: [{name: 'steps', values: steps}],
    scales: [
      scaleOver('x', 'width', {data: 'steps', fields: ['from', 'to']}),
      {name: 'y', type: 'band', range: 'height', domain: steps.map((step) => step.name), padding: 0.2}, partColours([
        {name: 'given', colour: theme.tiers.disk}, {name: 'taken', colour: theme.warning},
        {name: 'left', colour: theme.accent}
      ])
    ],
    axes: [bottomAxis(width, {title, format}, 130), namesAxis(Math.min(200, Math.round(width * 0.4)))],
    marks: [
      {
        type: 'rect',
        name: 'step',
        from: {data: 'steps'},
        encode: {
          enter: {
            x: {signal: 'min(scale(\'x\', datum.from), scale(\'x\', datum.to))'},
            width: {signal: 'max(1, abs(scale(\'x\', datum.from) - scale(\'x\', datum.to)))'},
            y: {scale: 'y', field: 'name'},
            height: {scale: 'y', band: 1},
            fill: {scale: 'colour', field: 'kind'},
            tooltip: {field: 'tip'}
          }
        },
      },
      {
        // Beside the bar where there is room, else inside it.
        type: 'text',
        from: {data: 'steps'},
        interactive: false,
        encode: {
          enter: {
            y: {scale: 'y', field: 'name', band: 0.5},
            baseline: {value: 'middle'},
            text: {field: 'label'},
            x: {
              signal: `scale('x', ${right}) < width - ${room} ? scale('x', ${right}) + 5 : scale('x', ${left}) > ${
                  room} ? scale('x', ${left}) - 5 : scale('x', ${right}) - 5`
            },
            align: {signal: `scale('x', ${right}) < width - ${room} ? 'left' : 'right'`},
            fill: {
              signal: `scale('x', ${right}) >= width - ${room} && scale('x', ${left}) <= ${room} ? '${
                  theme.background}' : '${theme.text}'`
            }
          }
        },
      },
    ],
  });
}
