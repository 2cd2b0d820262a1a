// Files of rows on their way to the disk: one thread writes the last buffer while the caller fills the next.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "snapshot.h"
#include "status.h"

namespace fleet {

// One file's rows, column behind column; each column has room for `capacity` rows. `table` says whose, to who fills it again.
struct RowBuffer {
  RowBuffer(size_t table, const Schema& schema, size_t capacity);
  ~RowBuffer();
  RowBuffer(const RowBuffer&) = delete;
  RowBuffer& operator=(const RowBuffer&) = delete;

  // The caller has made sure that num_rows < capacity.
  void add(const char* row) noexcept;

  // Touches the memory of the next `count` rows, of which there is room for as many: the first write into a huge page waits for
  // the system to clear it, some ms, and add() is called under a stripe's lock.
  void touch(size_t count) noexcept;

  const size_t table;
  const Schema schema;
  const size_t capacity;
  size_t num_rows = 0;
  char* memory = nullptr;  // nullptr: the system gave none
  std::vector<std::pair<size_t, size_t>> parts;  // of each column: where it lies in a row, and its bytes
  std::vector<char*> columns;
};

class FilePipe {
 public:
  FilePipe();
  ~FilePipe();  // waits for the file under way
  FilePipe(const FilePipe&) = delete;
  FilePipe& operator=(const FilePipe&) = delete;

  // Hands over a buffer; waits while another one is being written. `to` gets the file's description before finish() returns.
  Status put(std::unique_ptr<RowBuffer> buffer, std::string path, std::vector<SavedFile>* to);

  // Returns the buffer that was written last, empty again, if it is this table's: its memory need not be cleared by the system
  // once more. Else nullptr.
  std::unique_ptr<RowBuffer> take_spare(size_t table);

  // Waits until everything is on the disk.
  Status finish();

 private:
  void run();

  std::mutex mutex_;  // guards all below but the thread
  std::condition_variable changed_;
  std::unique_ptr<RowBuffer> waiting_;
  std::unique_ptr<RowBuffer> spare_;
  std::string path_;
  std::vector<SavedFile>* to_ = nullptr;
  bool busy_ = false;
  bool ending_ = false;
  Status status_;
  std::thread thread_;  // joined by the destructor
};

}  // namespace fleet
