"""Which rows of vLLM's flattened batch belong to which request: query_start_loc cuts the batch, slot_mapping says where
each row's key goes, and block tables say whose blocks these are. Needs no vLLM."""

from dataclasses import dataclass, field

import torch

from evictsim.sink import CaptureError, Rows


@dataclass
class Request:
    """What the scheduler has said about a request."""

    prompt_length: int
    computed: int = 0  # tokens whose keys were in the cache before this step
    scheduled: int = 0  # rows of this step
    blocks: set = field(default_factory=set)  # of every KV cache group; their ids come from one pool


class RequestTable:
    """The scheduler's view, kept up with its outputs (vllm/v1/core/sched/output.py)."""

    def __init__(self):
        self.requests = {}
        self._owners = {}  # block -> id of the request that writes it

    def update(self, output):
        """Takes one SchedulerOutput; returns the ids of requests that are over."""
        over = [name for name in sorted(output.finished_req_ids) if self.requests.pop(name, None) is not None]
        for new in output.scheduled_new_reqs:
            if new.prompt_token_ids is None:
                raise CaptureError(f"request {new.req_id} has embeddings instead of tokens, which a trace cannot hold")
            self.requests[new.req_id] = Request(len(new.prompt_token_ids), new.num_computed_tokens)
            self._add_blocks(new.req_id, new.block_ids)
        cached = output.scheduled_cached_reqs
        for name, blocks, computed in zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens):
            request = self.requests.get(name)
            if request is None:
                raise CaptureError(f"request {name} began before the capture")
            request.computed = computed
            if name in cached.resumed_req_ids:  # preempted before: these are all of its blocks
                request.blocks = set()
            self._add_blocks(name, blocks)
        for name, request in self.requests.items():
            request.scheduled = output.num_scheduled_tokens.get(name, 0)
        return over

    def _add_blocks(self, name, groups):
        for blocks in groups or ():
            self.requests[name].blocks.update(blocks)
            for block in blocks:
                self._owners[block] = name

    def writer(self, block):
        """The scheduled request that writes a block. Shared prefix blocks are full, so they are written by nobody."""
        name = self._owners.get(block)
        request = self.requests.get(name)
        if request is not None and block in request.blocks and request.scheduled > 0:
            return name
        return next(
            (name for name, request in self.requests.items() if request.scheduled > 0 and block in request.blocks), None
        )


@dataclass
class StepMetadata:
    """Of vLLM's CommonAttentionMetadata, on the host: all that tells requests apart."""

    query_start_loc: list  # [requests + 1]
    seq_lens: list  # [requests] tokens up to and including this step's
    slots: list  # [requests] where the first and the last row's key go; -1: padding
    blocks: list  # [requests] the block table's entries for these two rows' positions
    kernel_block: int  # tokens of a block as attention kernels and block tables count
    manager_block: int  # tokens of a block as the scheduler counts, a multiple


def read_step(common, kernel_block: int, manager_block: int) -> StepMetadata:
    """Two rows per request are read from the device, whatever the length of batch and block tables."""
    if manager_block % kernel_block != 0:
        raise CaptureError(f"blocks of {manager_block} tokens are not made of blocks of {kernel_block}")
    count = common.num_reqs
    start = common.query_start_loc_cpu[: count + 1].long().cpu()
    device = common.slot_mapping.device
    rows = torch.stack([start[:-1], (start[1:] - 1).clamp(min=0)], dim=-1).to(device)
    lengths = common.seq_lens[:count].long()
    first = lengths - (start[1:] - start[:-1]).to(lengths.device)
    places = torch.stack([first, lengths - 1], dim=-1).clamp(min=0).to(device) // kernel_block
    table = common.block_table_tensor[:count]
    return StepMetadata(
        start.tolist(),
        lengths.tolist(),
        common.slot_mapping[rows.clamp(max=len(common.slot_mapping) - 1)].tolist(),
        table.gather(1, places.clamp(max=table.shape[1] - 1)).tolist(),
        kernel_block,
        manager_block,
    )


@dataclass
class Range:
    """A request's rows [first_row, first_row + count) at positions first_position and on."""

    request_id: str
    first_row: int
    count: int
    first_position: int
    prompt_length: int

    def rows(self, token_ids) -> Rows:
        return Rows(
            self.request_id,
            self.first_row,
            self.first_position,
            token_ids[self.first_row : self.first_row + self.count],
            self.prompt_length,
        )


def map_rows(step: StepMetadata, table: RequestTable):
    """The step's ranges. Raises CaptureError where the metadata does not fit the scheduler's output; every scheduled
    request must be found."""
    ranges = []
    for index, (first, last) in enumerate(zip(step.query_start_loc, step.query_start_loc[1:])):
        count = last - first
        if count <= 0 or step.slots[index][1] < 0:
            continue  # padding of the batch
        slot = step.slots[index][1]
        name = table.writer(slot // step.manager_block)
        if name is None:
            raise CaptureError(
                f"rows {first} to {last - 1} go to block {slot // step.manager_block}, which belongs to no "
                "scheduled request"
            )
        request = table.requests[name]
        position = step.seq_lens[index] - count
        if count != request.scheduled or position != request.computed:
            raise CaptureError(
                f"request {name}: rows {first} to {last - 1} stand at positions {position} and on, and the "
                f"scheduler asked for {request.scheduled} from {request.computed} on"
            )
        for row, place, found, block in zip(
            (first, last - 1), (position, position + count - 1), step.slots[index], step.blocks[index]
        ):
            expected = block * step.kernel_block + place % step.kernel_block
            if found not in (expected, -1):  # a window's first rows may have no place any more
                raise CaptureError(
                    f"request {name}: row {row} goes to slot {found}, and its block table says {expected}"
                )
        ranges.append(Range(name, first, count, position, request.prompt_length))
    found = {entry.request_id for entry in ranges}
    missing = [name for name, request in table.requests.items() if request.scheduled > 0 and name not in found]
    if missing or len(found) != len(ranges):
        raise CaptureError(
            f"the step has no rows of request {missing[0]}" if missing else "two ranges of rows belong to one request"
        )
    return ranges
