#include "file_pipe.h"

#include <cstring>
#include <new>

#include "crc32.h"
#include "file.h"
#include "pages.h"
#include "row_file.h"

namespace fleet {

namespace {

// Checks a buffer, writes it, waits for the disk.
Status write_rows(const RowBuffer& buffer, const std::string& path, std::vector<SavedFile>* to) {
  const std::string header = header_of(buffer.schema, buffer.num_rows).text();
  SavedFile saved;
  saved.path = path;
  saved.rows = buffer.num_rows;
  saved.bytes = header.size() + buffer.num_rows * buffer.schema.saved_bytes();
  const std::vector<Column> columns = columns_of(buffer.schema);
  for (size_t c = 0; c < columns.size(); ++c) {
    const size_t bytes = buffer.num_rows * columns[c].bytes;
    if (columns[c].floats > 0) {
      const size_t bad = num_nonfinite(columns[c], buffer.columns[c], buffer.num_rows);
      if (bad > 0) return Status::damaged(std::to_string(bad) + " NaN or infinite values in the " + columns[c].name + " of its rows");
    }
    saved.checksums[columns[c].name] = crc32(0, buffer.columns[c], bytes);
  }
  File file;
  Status status = file.create(path, saved.bytes);
  if (status.ok()) status = file.write_at(0, header.data(), header.size());
  uint64_t at = header.size();
  for (size_t c = 0; c < columns.size() && status.ok(); ++c) {
    const size_t bytes = buffer.num_rows * columns[c].bytes;
    status = file.write_at(at, buffer.columns[c], bytes);
    at += bytes;
  }
  if (status.ok()) status = file.finish();
  if (status.ok()) to->push_back(std::move(saved));
  return status;
}

size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

RowBuffer::RowBuffer(size_t table_, const Schema& schema_, size_t capacity_)
    : table(table_), schema(schema_), capacity(capacity_) {
  size_t sum = 0;
  for (const Column& column : columns_of(schema)) {
    parts.emplace_back(column.offset, column.bytes);
    sum += rounded(capacity * column.bytes);
  }
  memory = take_pages(sum);
  want_huge_pages(memory, sum >= kHugePageBytes && memory != nullptr ? sum : 0);
  char* at = memory;
  for (const auto& part : parts) {
    columns.push_back(at);
    if (memory != nullptr) at += rounded(capacity * part.second);
  }
}

RowBuffer::~RowBuffer() {
  size_t sum = 0;
  for (const auto& part : parts) sum += rounded(capacity * part.second);
  return_pages(memory, sum);
}

void RowBuffer::add(const char* row) noexcept {
  for (size_t c = 0; c < parts.size(); ++c) {
    const auto [offset, bytes] = parts[c];
    std::memcpy(columns[c] + num_rows * bytes, row + offset, bytes);
  }
  ++num_rows;
}

void RowBuffer::touch(size_t count) noexcept {
  constexpr size_t kPage = 4096;
  for (size_t c = 0; c < parts.size(); ++c) {
    volatile char* const begin = columns[c] + num_rows * parts[c].second;
    const size_t bytes = count * parts[c].second;
    for (size_t at = 0; at < bytes; at += kPage) begin[at] = 0;
    if (bytes > 0) begin[bytes - 1] = 0;
  }
}

FilePipe::FilePipe() : thread_([this] { run(); }) {}

FilePipe::~FilePipe() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Status FilePipe::put(std::unique_ptr<RowBuffer> buffer, std::string path, std::vector<SavedFile>* to) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return waiting_ == nullptr && !busy_; });
  if (!status_.ok()) return status_;
  waiting_ = std::move(buffer);
  path_ = std::move(path);
  to_ = to;
  lock.unlock();
  changed_.notify_all();
  return {};
}

std::unique_ptr<RowBuffer> FilePipe::take_spare(size_t table) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (spare_ != nullptr && spare_->table != table) spare_.reset();
  return std::move(spare_);
}

Status FilePipe::finish() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return waiting_ == nullptr && !busy_; });
  return status_;
}

void FilePipe::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return waiting_ != nullptr || ending_; });
    if (waiting_ == nullptr) return;
    std::unique_ptr<RowBuffer> buffer = std::move(waiting_);
    busy_ = true;
    Status status = status_;
    if (status.ok()) {
      lock.unlock();
      try {
        status = write_rows(*buffer, path_, to_);
      } catch (const std::bad_alloc&) {
        status = Status::no_memory("the system has no memory to describe a file");
      }
      if (!status.ok()) status.path = path_;
      buffer->num_rows = 0;
      lock.lock();
      spare_ = std::move(buffer);
    }
    busy_ = false;
    status_ = status;
    changed_.notify_all();
  }
}

}  // namespace fleet
